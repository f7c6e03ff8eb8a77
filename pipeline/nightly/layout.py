"""Every path of a series; the only place that knows them."""

from dataclasses import dataclass

from pipeline.dataset.layout import Layout
from pipeline.errors import SeriesError
from pipeline.nightly.names import is_dataset_name


@dataclass(frozen=True, slots=True)
class SeriesLayout:
    """Paths below the folder or URL `root` of a series: datasets side by side, and who is followed."""

    root: str

    @property
    def latest(self) -> str:
        return f"{self.root}/LATEST.json"

    def dataset(self, name: str) -> Layout:
        """The dataset of a name.

        Raises:
            SeriesError: the name leads out of the series, or can't be shown.
        """
        if not is_dataset_name(name):
            hint = "name a folder of the series"
            raise SeriesError(
                "is no dataset of ours: its name is not a folder's", self.root, repr(name), hint
            )
        return Layout(f"{self.root}/{name}")
