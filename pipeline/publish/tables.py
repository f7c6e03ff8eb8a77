"""Lets the tables of a config show the dataset that readers follow, or another one."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pipeline import telemetry
from pipeline.config.location import absolute
from pipeline.config.sections import Table
from pipeline.errors import StoppedError
from pipeline.nightly import Series
from pipeline.publish import delta, iceberg
from pipeline.publish.contents import Contents, contents_of, refuse_removed
from pipeline.source.tables.delta import LOG

TRIES = 10
"""The number of tries; each lost one means that another commit took effect."""
DELTA = Table(format="delta")


class _State(Protocol):
    """The interface of a table as it was found, in either format."""

    def live(self) -> Mapping[str, int]: ...
    def holds(self, wanted: Contents, /) -> bool: ...
    def refuse(self, wanted: Contents, /) -> None: ...
    def replace(self, wanted: Contents, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Published:
    """The result for one table.

    table: its name in the config.  state: `published`, `unchanged` or, of a dry run, `would publish`.
    """

    table: str
    format: str
    state: str
    dataset: str
    files: int
    rows: int


def publish(
    series: Series, tables: Mapping[str, Table], name: str | None = None, dry_run: bool = False
) -> list[Published]:
    """Lets each table show a dataset; a table that shows it already is left alone.

    Args:
        name: the dataset; if None, the one that LATEST.json names at the moment of each commit.

    Raises:
        ConfigError: a library is missing, a catalog is unknown, or a table must not show the dataset.
        SeriesError: there is no such dataset.
        StorageError: storage or a catalog failed.
        StoppedError: others kept changing a table, or the dataset is being removed.
    """
    return [_publish(series, each, table, name, dry_run) for each, table in tables.items()]


def _publish(series: Series, label: str, table: Table, name: str | None, dry_run: bool) -> Published:
    where = f"publish.{label}"
    for _ in range(TRIES):
        with _opened(series, table, where) as found:
            # After the table: whoever moves LATEST.json from now on finds our commit, or makes it fail.
            wanted = contents_of(series, name)
            state = _step(found, wanted, dry_run)
        if state is None:
            telemetry.event("table changed by another", table=label, dataset=wanted.name)
            continue
        if state == "published":
            telemetry.event("table published", table=label, dataset=wanted.name, files=len(wanted.files))
            refuse_removed(series.dataset(wanted.name))
        return Published(label, table.format, state, wanted.name, len(wanted.files), wanted.rows)
    raise StoppedError("others keep changing the table", where, hint="publish again")


def _step(found: _State, wanted: Contents, dry_run: bool) -> str | None:
    """Returns what came of one try; None if another commit was first."""
    if found.holds(wanted):
        return "unchanged"
    found.refuse(wanted)
    if dry_run:
        return "would publish"
    return "published" if found.replace(wanted) else None


def named_by_tables(series: Series, tables: Mapping[str, Table]) -> dict[str, str]:
    """Returns the datasets of a series whose files its tables name, each with a reason to keep it.

    A Delta log in the series counts, whatever the config says.

    Raises:
        ConfigError: a library is missing, or a catalog is unknown.
        StorageError: storage or a catalog failed.
    """
    known = dict(tables)
    if not any(table.format == "delta" for table in known.values()):
        known |= {"delta": DELTA} if series.storage.exists(f"{series.layout.root}/{LOG}") else {}
    found: dict[str, str] = {}
    for label, table in known.items():
        with _opened(series, table, f"publish.{label}") as state:
            found |= dict.fromkeys(_datasets(series, state.live()), f"the table {label} shows it")
    return found


def _datasets(series: Series, paths: Mapping[str, int]) -> Iterator[str]:
    """Yields the names of the datasets of a series that paths lie in, relative ones or locations."""
    root = f"{absolute(series.layout.root).rpartition('://')[2].lstrip('/')}/"
    for path in paths:
        relative = path.partition(root)[2] if "://" in path else path
        if name := relative.partition("/")[0]:
            yield name


def _opened(series: Series, table: Table, where: str) -> AbstractContextManager[_State]:
    return delta.opened(series, where) if table.format == "delta" else iceberg.opened(table, where)
