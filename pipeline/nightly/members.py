"""The datasets of a series: which there are, in which order, and whom readers follow."""

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

    run_date: None where its name is no date.  created: None where the storage does not tell.
    base: the name of the dataset that it reuses vectors of.  being_removed: a prune has begun with it.
    """

    name: str
    run_date: datetime.date | None
    complete: bool
    created: datetime.datetime | None
    base: str | None
    being_removed: bool = False

    @property
    def date(self) -> datetime.date:
        """The run date of one that has one."""
        assert self.run_date is not None, self.name
        return self.run_date

    @property
    def order(self) -> tuple[datetime.date, tuple[str, int]]:
        """Orders those that have a run date by age; of one date, retries by their numbers."""
        return self.date, retry_order(self.name)


class SeriesReader:
    """The folder of a series, to look at."""

    def __init__(self, root: str, options: Options | None = None) -> None:
        self.layout, self.options = SeriesLayout(root), options
        self.storage = storage.connect(root, options)

    def dataset(self, name: str) -> Dataset:
        """The dataset of a name."""
        return Dataset(self.layout.dataset(name).root, self.options)

    def latest(self) -> Latest | None:
        """Whom readers follow; None before the first run has ended.

        Raises:
            SeriesError: LATEST.json can't be read.
        """
        try:
            return Latest.from_bytes(self.storage.read(self.layout.latest), self.layout.latest)
        except MissingError:
            return None

    def datasets(self) -> list[SeriesEntry]:
        """The datasets right in the folder, by name; what is not ours, or not of this version, left out."""
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
            run_date=_date_in(name),
            complete=complete,
            created=created,
            base=claim.base_name,
            being_removed=claim.being_removed,
        )


def complete(members: Iterable[SeriesEntry], before: datetime.date | None = None) -> list[SeriesEntry]:
    """Those that are complete and have a run date, oldest first; only those of before a date, if given."""
    dated = [member for member in members if member.complete and member.run_date]
    older = [member for member in dated if before is None or member.date < before]
    return sorted(older, key=attrgetter("order"))


def _date_in(name: str) -> datetime.date | None:
    """The run date of a run's dataset, and of one in which its rejects were tried again."""
    name = without_retry(name)
    try:
        date = datetime.date.fromisoformat(name)
    except ValueError:
        return None
    return date if date.isoformat() == name else None  # `20261125` is a date as well, but not how we write it
