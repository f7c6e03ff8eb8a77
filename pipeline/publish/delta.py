"""Publishes a dataset as a Delta table whose log lies beside the datasets of a series.

The newest part of the log is copied into a local folder. There deltalake writes the commit. The files that it
has added to the log are put back through our own storage, under the condition that there are none of their
names. So every storage and every way to log in works as for datasets, and one of two publishers wins.
"""

import datetime
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.dataset.field_ids import FIELD_ID
from pipeline.errors import ConfigError, ExistsError, MissingError, PipelineError, one_line
from pipeline.nightly import Series
from pipeline.publish.contents import Contents, File, refuse_other
from pipeline.source.tables.delta import COMMIT, LOG, copy_log
from pipeline.source.tables.snapshot import require
from pipeline.storage import Storage

NEVER = "interval 36500 days"
"""How long VACUUM keeps files that no version names any more: `prune` alone removes them."""
PROPERTIES = {"delta.deletedFileRetentionDuration": NEVER}
DIMENSION_KEY = b"dimension"
VECTOR = "embedding"


@dataclass(frozen=True)
class State:
    """The newest version of a table, in a local copy of its log.

    version: -1 if there is no table yet.
    """

    where: str
    storage: Storage
    folder: str
    mirror: Path
    version: int

    def live(self) -> dict[str, int]:
        """Returns the size of each file that the table names, by its path in the series."""
        if self.version < 0:
            return {}
        found = pa.table(self._table.get_add_actions())
        return dict(zip(found["path"].to_pylist(), found["size_bytes"].to_pylist(), strict=True))

    def holds(self, wanted: Contents) -> bool:
        """Tells whether the table shows exactly the shards of a dataset, and its columns."""
        shards = {file.path: file.size for file in wanted.files}
        return self.version >= 0 and self.live() == shards and self._has_columns(_schema(wanted))

    def refuse(self, wanted: Contents) -> None:
        """Refuses a dataset that this table must not show.

        Raises:
            ConfigError: a column has another type than in the table, or the vectors have another dimension.
        """
        after = _schema(wanted)
        if self.version < 0:
            return
        before = pa.schema(self._table.schema())
        told = before.field(VECTOR).metadata if VECTOR in before.names else None
        dimension = (told or {}).get(DIMENSION_KEY)
        refuse_other(before, pa.schema(after), dimension and dimension.decode(), wanted, self.where)

    def replace(self, wanted: Contents) -> bool:
        """Makes the table show a dataset; returns whether it did, and False if another commit was first.

        Raises:
            StorageError: storage failed.
        """
        if self.version < 0:
            self._create(wanted)
        else:
            self._commit(wanted)
        return self._put_back()

    def _has_columns(self, wanted: Any) -> bool:
        found: bool = pa.schema(self._table.schema()).equals(pa.schema(wanted), check_metadata=True)
        return found

    @cached_property
    def _table(self) -> Any:
        """Reads the log, once: it names each file of a night."""
        return self._read()

    def _read(self) -> Any:
        from deltalake import DeltaTable  # noqa: PLC0415  (an extra)

        return DeltaTable(str(self.mirror))

    def _create(self, wanted: Contents) -> None:
        from deltalake.transaction import create_table_with_add_actions  # noqa: PLC0415

        create_table_with_add_actions(
            str(self.mirror),
            _schema(wanted),
            [_add(file, wanted) for file in wanted.files],
            configuration=PROPERTIES,
            commit_properties=_commit_properties(wanted),
        )

    def _commit(self, wanted: Contents) -> None:
        """Writes the commit: in the library's mode `append` alone a file may stay, and others go."""
        from deltalake.transaction import RemoveAction  # noqa: PLC0415

        table, after, live = self._table, _schema(wanted), self.live()
        files = {file.path: file for file in wanted.files}
        adds = [_add(file, wanted) for path, file in files.items() if live.get(path) != file.size]
        if self._has_columns(after):
            now = round(time.time() * 1000)
            removed = [
                RemoveAction(path, True, now, size) for path, size in live.items() if path not in files
            ]
            actions, mode = [*adds, *removed], "append"
        else:
            _refuse_overlap(self.where, live, files)
            table, actions, mode = self._with_features(after), adds, "overwrite"
        table.create_write_transaction(actions, mode, after, commit_properties=_commit_properties(wanted))

    def _with_features(self, after: Any) -> Any:
        """Returns the table with the feature that instants without a zone need, as a commit of its own."""
        from deltalake import TableFeatures  # noqa: PLC0415

        table = self._table
        has = "timestampNtz" in (table.protocol().reader_features or ())
        if "timestamp_ntz" in after.to_json() and not has:
            table.alter.add_feature(
                TableFeatures.TimestampWithoutTimezone, allow_protocol_versions_increase=True
            )
            table = self._read()
        return table

    def _put_back(self) -> bool:
        """Puts the commits that the library has added into the series' log, in order, then its checkpoint."""
        made = {path.name: path for path in (self.mirror / LOG).iterdir()}
        commits = sorted(
            name for name in made if (found := COMMIT.fullmatch(name)) and int(found[1]) > self.version
        )
        assert commits, "the library has written no commit"
        for name in commits:
            try:
                self.storage.put_if_absent(f"{self.folder}/{LOG}/{name}", made[name].read_bytes())
            except ExistsError:
                return False
        newest = int(commits[-1].removesuffix(".json"))
        checkpoints = [name for name in made if name.startswith(f"{newest:020}.checkpoint")]
        for name in [*checkpoints, *(["_last_checkpoint"] if checkpoints else [])]:
            self.storage.put(f"{self.folder}/{LOG}/{name}", made[name].read_bytes())
        return True


@contextmanager
def opened(series: Series, where: str) -> Iterator[State]:
    """Yields the newest version of the table in a series' folder.

    Args:
        where: the table, for messages.

    Raises:
        ConfigError: deltalake is not installed, or can't read the table.
        StorageError: storage failed.
    """
    require(where, "deltalake")
    store, folder = series.storage, series.layout.root
    with tempfile.TemporaryDirectory() as mirror:
        try:
            version = copy_log(where, store, folder, None, Path(mirror, LOG))
        except MissingError:
            version = -1
        with _told(where):
            yield State(where, store, folder, Path(mirror), version)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turns what the library raises into an error that names the table; our own errors pass."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # the library raises errors of many kinds
        if type(error).__module__.partition(".")[0] not in ("_internal", "deltalake"):
            raise
        hint = "check it with another engine; or remove the log, and publish again: the datasets stay"
        raise ConfigError("can't be published as a Delta table", where, one_line(error), hint) from None


def _schema(wanted: Contents) -> Any:
    """Returns the columns in the form of Delta; without field ids, which mean another thing there."""
    from deltalake import Schema  # noqa: PLC0415  (an extra)

    found = []
    for each in wanted.columns:
        told = {DIMENSION_KEY: str(wanted.dimension).encode()} if each.name == VECTOR else None
        found.append(_without_ids(each).with_metadata(told))
    return Schema.from_arrow(pa.schema(found))


def _without_ids(field: pa.Field) -> pa.Field:
    types, kind = pa.types, field.type
    if types.is_struct(kind):
        kind = pa.struct([_without_ids(each) for each in kind])
    elif types.is_map(kind):
        kind = pa.map_(_without_ids(kind.key_field), _without_ids(kind.item_field))
    elif types.is_list(kind):
        kind = pa.list_(_without_ids(kind.value_field))
    told = {key: value for key, value in (field.metadata or {}).items() if key != FIELD_ID}
    return pa.field(field.name, kind, field.nullable, told or None)


def _add(file: File, wanted: Contents) -> Any:
    from deltalake.transaction import AddAction  # noqa: PLC0415  (an extra)

    stats: dict[str, Any] = {"numRecords": file.rows, "tightBounds": False}
    if file.least and file.most:
        names = ("source_file", "source_row")
        stats |= {"minValues": dict(zip(names, file.least, strict=True))}
        stats |= {"maxValues": dict(zip(names, file.most, strict=True))}
    return AddAction(file.path, file.size, {}, _milliseconds(wanted), True, json.dumps(stats))


def _milliseconds(wanted: Contents) -> int:
    """Returns the begin of the run date, which stands for the time of the files."""
    midnight = datetime.datetime.combine(wanted.run_date, datetime.time(), datetime.UTC)
    return round(midnight.timestamp() * 1000)


def _commit_properties(wanted: Contents) -> Any:
    from deltalake import CommitProperties, Transaction  # noqa: PLC0415  (an extra)

    night = int(wanted.run_date.strftime("%Y%m%d"))
    return CommitProperties(
        custom_metadata=dict(wanted.marks),
        max_commit_retries=0,
        app_transactions=[Transaction(wanted.series, night)],
    )


def _refuse_overlap(where: str, live: dict[str, int], files: dict[str, File]) -> None:
    """Refuses other columns for files that the table shows already: the dataset was made again in its place.

    Raises:
        ConfigError: there are such files.
    """
    if both := sorted(live.keys() & files.keys()):
        hint = "remove the log, and publish again: the datasets stay"
        raise ConfigError("shows files of this dataset with other columns", where, both[0], hint)
