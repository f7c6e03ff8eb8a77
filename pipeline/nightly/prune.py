"""Removes the datasets of a series that are not needed any more.

If it is killed at any point, the next call continues. `_SUCCESS` is removed first, so that a half-removed
dataset never looks complete. `dataset.json` is removed last, so that the rest is found again. Foreign files
in a folder stay.

Before any file is removed, dataset.json is marked: a run that begins later refuses the dataset. A run that
began before has left a young record of its attempt, and its dataset is kept.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import telemetry
from pipeline.dataset.layout import LOCK, Layout
from pipeline.errors import SeriesError, StorageError
from pipeline.nightly.latest import Latest
from pipeline.nightly.members import THREADS, SeriesEntry, SeriesReader, complete
from pipeline.storage import ObjectInfo

YOUNG = datetime.timedelta(days=1)
"""The age below which a file may belong to a run that is still at work."""
NOTHING_SHOWN: Mapping[str, str] = {}
FOLLOWED = "readers have come to follow it"


@dataclass(frozen=True)
class PruneDecision:
    """The decision about a dataset and its reason; `left`: the foreign files in it, which stay."""

    name: str
    removed: bool
    reason: str
    left: Sequence[str] = ()


@dataclass(frozen=True)
class Limits:
    """The limits for old datasets: not among the newest and, if days are given, older than these days.

    keep: how many complete ones are the newest; unfinished ones that are as new count among them.
    today: the date from which days are counted.

    Raises:
        SeriesError: the limits make no sense.
    """

    keep: int
    days: int | None
    today: datetime.date

    def __post_init__(self) -> None:
        wrong = [f"keep {self.keep}: at least 1 stays"] if self.keep < 1 else []
        if self.days is not None and self.days < 1:
            wrong.append(f"older than {self.days} days: at least 1")
        if wrong:
            raise SeriesError("nothing is pruned by such limits: " + ", ".join(wrong))

    def reason_to_keep(self, member: SeriesEntry, newer: int) -> str | None:
        """Returns why a dataset is not old, or None; `newer`: how many complete ones are newer."""
        if member.run_date is None:
            return "its name is not a date"
        if newer < self.keep:
            return f"one of the {self.keep} newest" if member.complete else "unfinished, and among the newest"
        if self.days is not None and (self.today - member.run_date).days <= self.days:
            return f"not older than {self.days} days"
        return None


def prune(
    series: SeriesReader,
    limits: Limits,
    dry_run: bool,
    now: datetime.datetime,
    shown: Mapping[str, str] = NOTHING_SHOWN,
) -> list[PruneDecision]:
    """Removes the old datasets that no rule keeps; returns the decision about each dataset, by name.

    Args:
        shown: datasets that tables show, with the reason to keep each.

    Raises:
        SeriesError: the folder holds no dataset, or LATEST.json can't be read.
    """
    members = series.datasets()
    if not members:
        raise SeriesError("holds no dataset of ours", series.layout.root, hint="check output.path")
    needed = dict(shown) | _needed(members, series.latest())
    dates = [member.date for member in complete(members)]
    fates = []
    for member in members:
        newer = sum(date > member.date for date in dates) if member.run_date else 0
        if reason := needed.get(member.name) or limits.reason_to_keep(member, newer):
            fates.append(PruneDecision(member.name, False, reason))
            if member.being_removed and member.complete and not dry_run:  # by a prune that was killed
                series.dataset(member.name).end_removal()
        else:
            why = f"{'' if member.complete else 'unfinished; '}{newer} newer ones are complete"
            fates.append(_prune(series, member, why, dry_run, now - YOUNG))
    return fates


def _needed(members: Iterable[SeriesEntry], latest: Latest | None) -> dict[str, str]:
    """Returns the datasets that are needed whatever their age, with the reason."""
    needed = {
        member.base: f"{member.name}, unfinished, takes vectors from it"
        for member in members
        if member.base and not member.complete
    }
    if latest and latest.previous:
        needed[latest.previous] = "a rollback goes to it"
    if latest:
        needed[latest.dataset] = "readers follow it"
    return needed


def _prune(
    series: SeriesReader, member: SeriesEntry, why: str, dry_run: bool, young: datetime.datetime
) -> PruneDecision:
    """Removes a dataset, unless a run or a reader turns out to use it."""
    layout = series.layout.dataset(member.name)
    found = series.storage.list_recursive(layout.root)
    # The mark that it is being removed was written by a prune that was killed.
    if reason := _in_use(found, layout, young, but_identity=member.being_removed):
        return PruneDecision(member.name, False, reason)
    left = sorted(name for name in found if not layout.is_ours(name))
    if layout.name(layout.success) not in found and series.storage.exists(layout.success):
        return PruneDecision(member.name, False, "it was just completed, or its data/ is a link to another's")
    if not dry_run and (reason := _remove(series, member.name, young)):
        return PruneDecision(member.name, False, reason)
    return PruneDecision(member.name, True, why, left)


def _in_use(
    found: Mapping[str, ObjectInfo], layout: Layout, young: datetime.datetime, but_identity: bool
) -> str | None:
    """Returns why the files of a dataset may belong to a run that is still at work; None if they can't.

    A prune's own mark and its lock do not count as signs of a run.
    """
    own = {LOCK, layout.name(layout.identity)} if but_identity else {LOCK}
    looked_at = [info for name, info in found.items() if name not in own]
    times = [info.changed for info in looked_at if info.changed]
    if len(times) < len(looked_at):  # it may have been a moment ago
        return "the storage does not tell when it changed"
    return "changed within a day" if any(time > young for time in times) else None


def _remove(series: SeriesReader, name: str, young: datetime.datetime) -> str | None:
    """Removes a dataset's files in their order, and only those that were listed.

    A listing skips symbolic links; a path that is not from a listing might lead through one.

    Returns:
        None if it was removed; else the reason: it has come into use since we looked, and is unchanged.
    """
    dataset, layout, storage = series.dataset(name), series.layout.dataset(name), series.storage
    if _followed(series, name):
        return FOLLOWED
    if not dataset.begin_removal():
        return "somebody has just changed it"
    found = storage.list_recursive(layout.root)
    if reason := _in_use(found, layout, young, but_identity=True) or _taken_away(series, name, found):
        dataset.end_removal()
        return reason
    last = (layout.plan, layout.identity)
    paths = {layout.below(name) for name in found if layout.is_ours(name)} - {layout.success, *last}
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(storage.remove, sorted(paths)))
    _sweep(series, layout)
    for path in last:
        if layout.name(path) in found:
            storage.remove(path)
    for folder in layout.folders_of(layout.name(path) for path in paths):
        storage.remove_empty_folder(folder)
    telemetry.event("dataset removed", dataset=layout.root, files=len(paths) + len(last))
    return None


def _taken_away(series: SeriesReader, name: str, found: Mapping[str, ObjectInfo]) -> str | None:
    """Removes `_SUCCESS`; if readers have come to follow the dataset, puts it back and returns the reason."""
    layout, storage = series.layout.dataset(name), series.storage
    if layout.name(layout.success) in found:
        storage.remove(layout.success)
    # A rollback looks for _SUCCESS again after it has written LATEST.json: one of us notices the other.
    if not _followed(series, name):
        return None
    if layout.name(layout.success) in found:
        storage.put_if_absent(layout.success, b"")
    return FOLLOWED


def _followed(series: SeriesReader, name: str) -> bool:
    latest = series.latest()
    return latest is not None and latest.dataset == name


def _sweep(series: SeriesReader, layout: Layout) -> None:
    """Aborts uploads left by killed writers: they are invisible, but billed."""
    try:
        series.storage.abort_unfinished_uploads(layout.root, layout.is_ours)
    except StorageError as error:  # the dataset goes all the same
        telemetry.event("unfinished uploads not looked for", reason=str(error))
