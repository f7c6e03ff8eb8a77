"""Finds the field ids that the datasets of a series have so far, for a dataset that is planned now."""

from collections.abc import Iterator

from pipeline import storage
from pipeline.config.sections import Output
from pipeline.dataset.damage import unless_damaged
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.field_ids import NO_IDS
from pipeline.nightly.layout import SeriesLayout
from pipeline.nightly.members import date_in
from pipeline.nightly.names import is_dataset_name, retry_order
from pipeline.nightly.series import series_folder
from pipeline.plan.plan import FieldIds

LOOKED_AT = 5
"""How many datasets without a plan may be newer than the one whose ids are taken."""
NOT_KEPT = "field ids are not kept: a table may refuse this dataset"


def known_field_ids(output: Output, base: str | None) -> FieldIds:
    """Returns the field ids of the base, else of the newest other dataset of the series that has a plan.

    Args:
        output: that of the dataset that is planned.  base: the path of its base, if it has one.

    Raises:
        StorageError: storage failed.
    """
    for path in [base] if base else _newest_first(output):
        dataset = Dataset(path, output.options)
        if dataset.storage.exists(dataset.layout.plan) and (
            found := unless_damaged(NOT_KEPT, path, dataset.field_ids)
        ):
            return found
    return NO_IDS


def _newest_first(output: Output) -> Iterator[str]:
    """Yields the paths of the newest datasets of the series that an output belongs to, without its own."""
    folder = series_folder(output)
    if folder is None:
        return
    own = output.path.rpartition("/")[2]
    names = [name for name in storage.connect(folder, output.options).list_folders(folder) if name != own]
    dated = [
        (date, retry_order(name), name) for name in names if is_dataset_name(name) and (date := date_in(name))
    ]
    for _, _, name in sorted(dated, reverse=True)[:LOOKED_AT]:
        yield SeriesLayout(folder).dataset(name).root
