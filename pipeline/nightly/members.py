"""Reads a series: its datasets, their order, and which of them readers follow."""

import datetime
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter

from pipeline import storage
from pipeline.config.location import Options
from pipeline.dataset.claim import Claim
from pipeline.dataset.dataset import Dataset
from pipeline.errors import DamagedError, MissingError
from pipeline.nightly.latest import Latest
from pipeline.nightly.layout import SeriesLayout
from pipeline.nightly.names import is_dataset_name, retry_order, without_retry

THREADS = 32


@dataclass(frozen=True, kw_only=True)
class SeriesEntry:
    """A dataset of a series.

    run_date: None if its name is not a date.  created: None if the storage does not tell.
    base: the name of the dataset whose vectors it reuses.  being_removed: a prune has begun to remove it.
    """

    name: str
    run_date: datetime.date | None
    complete: bool
    created: datetime.datetime | None
    base: str | None
    being_removed: bool = False

    @property
    def date(self) -> datetime.date:
        """Returns the run date of a dataset that must have one."""
        assert self.run_date is not None, self.name
        return self.run_date

    @property
    def order(self) -> tuple[datetime.date, tuple[str, int]]:
        """Returns the key that orders dated datasets by age, and retries of one date by their numbers."""
        return self.date, retry_order(self.name)


class SeriesReader:
    """A series that is only read."""

    def __init__(self, root: str, options: Options | None = None) -> None:
        self.layout, self.options = SeriesLayout(root), options
        self.storage = storage.connect(root, options)

    def dataset(self, name: str) -> Dataset:
        """Returns the dataset with a name."""
        return Dataset(self.layout.dataset(name).root, self.options)

    def latest(self) -> Latest | None:
        """Returns the dataset that readers follow; None until the first run has ended.

        Raises:
            SeriesError: LATEST.json can't be read.
        """
        try:
            return Latest.from_bytes(self.storage.read(self.layout.latest), self.layout.latest)
        except MissingError:
            return None

    def datasets(self) -> list[SeriesEntry]:
        """Lists the datasets directly in the folder, by name; skips those of other programs and versions."""
        with ThreadPoolExecutor(THREADS) as pool:
            members = pool.map(self._member, self.storage.list_folders(self.layout.root))
            return [member for member in members if member]

    def _member(self, name: str) -> SeriesEntry | None:
        if not is_dataset_name(name):
            return None
        layout = self.layout.dataset(name)
        try:
            claim = Claim.from_bytes(self.storage.read(layout.identity), layout.identity)
            created = self.storage.info(layout.identity).changed
        except (MissingError, DamagedError):
            return None
        if not claim.is_ours:
            return None
        complete = self.storage.exists(layout.success)
        return SeriesEntry(
            name=name,
            run_date=date_in(name),
            complete=complete,
            created=created,
            base=claim.base_name,
            being_removed=claim.being_removed,
        )


def complete(members: Iterable[SeriesEntry], before: datetime.date | None = None) -> list[SeriesEntry]:
    """Returns the complete datasets with a run date, oldest first; if given, only those before a date."""
    dated = [member for member in members if member.complete and member.run_date]
    older = [member for member in dated if before is None or member.date < before]
    return sorted(older, key=attrgetter("order"))


def date_in(name: str) -> datetime.date | None:
    """Returns the run date in the name of a run's dataset, or of a retry of its rejects."""
    name = without_retry(name)
    try:
        date = datetime.date.fromisoformat(name)
    except ValueError:
        return None
    return date if date.isoformat() == name else None  # `20261125` is a date too, but not in our format
