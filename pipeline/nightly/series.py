"""Changes a series: a run advances it, an operator rolls it back, and old datasets are removed."""

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Mapping

import pyarrow as pa

from pipeline import parsing, telemetry
from pipeline.config.sections import Output
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.layout import Layout
from pipeline.dataset.record import RECORD
from pipeline.errors import (
    DamagedError,
    MissingError,
    OtherDatasetError,
    ReplacedError,
    SeriesError,
    StoppedError,
)
from pipeline.humanize import named
from pipeline.nightly import prune
from pipeline.nightly.latest import DatasetFacts, Latest
from pipeline.nightly.members import SeriesEntry, SeriesReader, complete
from pipeline.nightly.names import retry_order, without_retry

TRIES = 30
"""The number of tries; each lost one means that a rival's change took effect."""
COMPARED = pa.schema([RECORD.field(name) for name in ("split_id", "file_bytes")])
"""The columns of the manifest with which a listing must agree."""


class Series(SeriesReader):
    """A series in a folder, existing or not yet."""

    def advance(self, name: str, run_date: datetime.date, facts: DatasetFacts) -> bool:
        """Lets readers follow a complete dataset, unless they follow a newer one or are held back.

        It may be called again at any time: a driver that died before this step does it when resumed.

        Returns:
            True if LATEST.json was changed.

        Raises:
            SeriesError: LATEST.json can't be read.
            StoppedError: rivals kept changing it.
        """

        def moved(latest: Latest | None) -> Latest | None:
            if latest is None:
                return Latest.at(name, run_date, facts, previous=None)
            if reason := _reason_to_stay(latest, name, run_date, facts):
                telemetry.event("LATEST kept", dataset=latest.dataset, offered=name, reason=reason)
                return None
            # With the same name it is another dataset: the old one was removed, and it was made again.
            previous = latest.previous if latest.dataset == name else latest.dataset
            return Latest.at(name, run_date, facts, previous)

        return self._swap(moved) is not None

    def rollback(self, to: str | None = None) -> Latest:
        """Lets readers follow an older dataset, and holds runs back until `unpin`.

        Args:
            to: its name; if not given, the one before the present one.

        Raises:
            SeriesError: the series or the dataset does not exist, or the dataset is incomplete or damaged.
            StoppedError: rivals kept changing LATEST.json, or the dataset is being removed.
        """
        followed, members = self.followed(), self.datasets()
        target = self._named(to, members) if to else self._predecessor(followed, members)
        dataset = self.dataset(target.name)
        self._refuse_damaged(dataset.layout)
        older = complete(members, before=target.date)
        previous = older[-1].name if older else None
        after = Latest.at(target.name, target.date, DatasetFacts.of(dataset), previous, pinned=True)
        displaced = followed

        def taken_back(latest: Latest | None) -> Latest:
            nonlocal displaced
            displaced = latest or followed  # a run may have advanced it since we looked
            return after

        self._swap(taken_back)
        # A prune that read LATEST.json before we wrote it has removed _SUCCESS; a later one sees our change.
        if not self._succeeded(dataset.layout):
            self._swap(lambda latest: displaced if latest == after else None)
            self._follow_newest()  # a run that ended meanwhile found it pinned
            raise StoppedError("is being removed", dataset.layout.root, hint="name another")
        return after

    def unpin(self) -> Latest:
        """Lets readers follow the newest complete dataset, and lets runs advance them again.

        Raises:
            SeriesError: the series does not exist, or is not pinned.
            StoppedError: rivals kept changing LATEST.json.
        """

        def released(latest: Latest | None) -> Latest:
            if latest is None or not latest.pinned:
                raise SeriesError("is not pinned", self.layout.latest, hint="runs move it by themselves")
            return dataclasses.replace(latest, pinned=False)

        self.followed()
        # Released before we look: a run that ends later advances the series itself.
        self._swap(released)
        self._follow_newest()
        return self.followed()

    def complete_dataset(self, name: str) -> Dataset:
        """Returns the complete dataset with a name.

        Raises:
            SeriesError: there is none in the series.
        """
        return self.dataset(self._named(name, self.datasets()).name)

    def prune(
        self,
        keep: int = 3,
        older_than_days: int | None = None,
        dry_run: bool = False,
        now: datetime.datetime | None = None,
        shown: Mapping[str, str] | None = None,
    ) -> list[prune.PruneDecision]:
        """Removes datasets that are old and not needed.

        Some are kept whatever their age: the one that readers follow, its predecessor, every base that an
        unfinished dataset names, those that changed within a day, and those without a run date.

        Args:
            keep: how many of the newest complete ones stay.
            older_than_days: remove only those of the others whose run date is longer ago.
            dry_run: only return the decisions.
            now: the time from which age is counted; the clock's time if not given.
            shown: datasets that tables show, which stay whatever their age, with the reason.

        Raises:
            SeriesError: the limits make no sense, the folder holds no dataset, or LATEST.json can't be read.
        """
        now = now or datetime.datetime.now(datetime.UTC)
        limits = prune.Limits(keep, older_than_days, now.date())
        return prune.prune(self, limits, dry_run, now, shown or {})

    def _swap(self, change: Callable[[Latest | None], Latest | None]) -> Latest | None:
        """Replaces LATEST.json by the result of `change`, if its version is still the one that was read.

        Returns:
            The entry that was written; None if `change` returned None.
        """
        for _ in range(TRIES):
            version = self.storage.version(self.layout.latest)
            try:
                before = self.latest() if version else None
                after = change(before)
                if after is None:
                    return None
                self.storage.replace(self.layout.latest, after.to_bytes(), version)
            except ReplacedError:
                continue
            was = before.dataset if before else None
            what = "LATEST rewritten" if was == after.dataset else "LATEST moved"
            telemetry.event(what, was=was, now=after.dataset, pinned=after.pinned)
            return after
        raise StoppedError("others keep changing it", self.layout.latest, hint="run again")

    def _follow_newest(self) -> None:
        """Lets readers follow the newest complete dataset, unless they are held back."""
        if found := complete(self.datasets()):
            newest = found[-1]
            self.advance(newest.name, newest.date, DatasetFacts.of(self.dataset(newest.name)))

    def _succeeded(self, layout: Layout) -> bool:
        """Tells whether a dataset is complete at this moment.

        It opens `_SUCCESS`: without that, the answer of a mount may be a minute old.
        """
        try:
            self.storage.read(layout.success)
        except MissingError:
            return False
        return True

    def followed(self) -> Latest:
        """Returns the dataset that readers follow.

        Raises:
            SeriesError: no run has ended yet, or LATEST.json can't be read.
        """
        latest = self.latest()
        if latest is None:
            hint = "no run has ended here; check output.path"
            raise SeriesError("does not exist", self.layout.latest, hint=hint)
        return latest

    def _named(self, name: str, members: Iterable[SeriesEntry]) -> SeriesEntry:
        where = self.layout.dataset(name).root
        member = next((member for member in members if member.name == name), None)
        if member is None:
            known = ", ".join(each.name for each in complete(members)[-5:]) or "none"
            raise SeriesError("is not a dataset of ours", where, hint=f"complete datasets: {known}")
        if not member.complete:
            raise SeriesError(
                "is not complete: it has no data/_SUCCESS",
                where,
                hint="run its config again, or name another",
            )
        if member.run_date is None:
            raise SeriesError(
                "has no place in the series: its name is not a date",
                where,
                hint="choose one that is named by its run date",
            )
        return member

    def _predecessor(self, latest: Latest, members: Iterable[SeriesEntry]) -> SeriesEntry:
        older = [member for member in complete(members) if member.order < latest.order]
        if not older:
            raise SeriesError(
                f"holds no complete dataset older than {latest.dataset}",
                self.layout.root,
                hint="there is none to go back to",
            )
        return next((member for member in older if member.name == latest.previous), older[-1])

    def _refuse_damaged(self, layout: Layout) -> None:
        """Refuses a dataset whose manifest does not match a LIST of its shards."""
        try:
            manifest = parsing.table(self.storage.read(layout.manifest), COMPARED, layout.manifest)
            ids, sizes = (column.to_pylist() for column in manifest.columns)
            names = [layout.shard(split_id).rsplit("/", 1)[-1] for split_id in ids]
        except (MissingError, DamagedError, OtherDatasetError) as error:
            raise SeriesError(
                "is damaged: its manifest can't be read",
                layout.root,
                str(error),
                hint="name another with --to",
            ) from None
        found = {name: info.size for name, info in self.storage.list_files(layout.data).items()}
        found.pop("_SUCCESS", None)
        wrong = _differences(dict(zip(names, sizes, strict=True)), found)
        if wrong:
            raise SeriesError(f"is damaged: {named(wrong)}", layout.data, hint="name another with --to")


def _reason_to_stay(latest: Latest, name: str, run_date: datetime.date, facts: DatasetFacts) -> str | None:
    if latest.dataset == name and latest.facts == facts:
        return "it is followed already"
    if latest.pinned:
        return "it is pinned"
    # Two of one date are ordered by name, so that the order of calls does not matter.
    return "it is newer" if latest.order > (run_date, retry_order(name)) else None


def _differences(planned: dict[str, int], found: dict[str, int]) -> list[str]:
    """Describes each shard that is missing, foreign, or of another size, in a phrase each."""
    return [
        *(f"{name} is missing" for name in sorted(planned.keys() - found.keys())),
        *(f"{name} is foreign" for name in sorted(found.keys() - planned.keys())),
        *(
            f"{name} has {found[name]} bytes instead of {size}"
            for name, size in sorted(planned.items())
            if found.get(name, size) != size
        ),
    ]


def series_folder(output: Output) -> str | None:
    """Returns the folder of all runs' datasets; None unless `{run_date}` was the last part of the path."""
    parent, _, name = output.path.rpartition("/")
    dated = output.run_date and without_retry(name) == output.run_date.isoformat()
    return parent if dated else None
