"""Defines every path of a series; no other module knows them."""

from dataclasses import dataclass

from pipeline.dataset.layout import Layout
from pipeline.errors import SeriesError
from pipeline.nightly.names import is_dataset_name


@dataclass(frozen=True, slots=True)
class SeriesLayout:
    """Paths below the folder or URL `root` of a series: the datasets and LATEST.json."""

    root: str

    @property
    def latest(self) -> str:
        return f"{self.root}/LATEST.json"

    def dataset(self, name: str) -> Layout:
        """Returns the layout of the dataset with a name.

        Raises:
            SeriesError: the name leads out of the series, or can't be shown.
        """
        if not is_dataset_name(name):
            hint = "name a folder of the series"
            raise SeriesError(
                "is not a dataset of ours: its name is not a folder's", self.root, repr(name), hint
            )
        return Layout(f"{self.root}/{name}")
