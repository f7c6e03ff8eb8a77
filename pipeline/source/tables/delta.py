"""Reads a snapshot of a Delta table through our own storage, with deltalake.

The part of the log that makes up the version is copied into a local folder, and deltalake replays it there
into one checkpoint. So every storage and every way to log in works as for other sources, each request is
counted, and the library never sees a secret. No folder of data is ever listed.
"""

import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config.location import is_url
from pipeline.config.source import Source
from pipeline.errors import ConfigError, MissingError, one_line
from pipeline.source.tables.deletions import vector_name
from pipeline.source.tables.snapshot import (
    FIELD_ID,
    PHYSICAL_NAME,
    Column,
    DataFile,
    Deletion,
    Snapshot,
    data_file,
    require,
    wanted_columns,
)

LOG = "_delta_log"
COMMIT = re.compile(r"(\d{20})\.json")
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.(\d{10}))?\.parquet")
THREADS = 16
READER_VERSION = 3
FEATURES = {
    "columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview",
    "vacuumProtocolCheck", "variantType", "variantType-preview", "variantShredding",
    "variantShredding-preview",
}  # fmt: skip
"""The features of tables that are read right here. Columns of variants are refused if they are carried."""
COLUMN_ID = b"delta.columnMapping.id"
BLOCK = 10_000


def read_snapshot(where: str, source: Source, folder: str) -> Snapshot:
    """Returns the files of the version that a source names, or of the newest.

    Args:
        where: the source, for messages.  folder: the table's folder.

    Raises:
        ConfigError: deltalake is not installed, or it is a table or a version that can't be read.
        StorageError: storage failed, or there is no table.
    """
    require(where, "deltalake", "pyroaring")
    from deltalake import DeltaTable  # noqa: PLC0415  (an extra)

    store = storage.connect(folder, source.options)
    with tempfile.TemporaryDirectory() as mirror:
        version = copy_log(where, store, folder, source.version, Path(mirror, LOG))
        try:
            table = DeltaTable(mirror, version=version)
            _refuse_unknown(where, table.protocol())
            table.create_checkpoint()
            columns = pa.schema(table.schema())
            log = pq.read_table(Path(mirror, LOG, f"{version:020}.checkpoint.parquet"))
        except ConfigError:
            raise
        except Exception as error:  # the library raises errors of many kinds over a log that it can't read
            raise ConfigError(
                "can't be read as a Delta table",
                where,
                one_line(error),
                "check it with the engine that wrote it",
            ) from None
    [told] = log.column("metaData").drop_null().to_pylist()
    setup = _Setup(where, folder, source, columns, told)
    adds = log.column("add").filter(pc.is_valid(log.column("add")))
    files = [setup.data_file(add) for block in _blocks(adds) for add in block.to_pylist()]
    return Snapshot(sorted(files, key=lambda file: file.path), {}, version)


def _blocks(adds: pa.ChunkedArray) -> Iterator[pa.ChunkedArray]:
    """Yields a few files at a time: as Python objects, millions would fill gigabytes."""
    yield from (adds.slice(at, BLOCK) for at in range(0, len(adds), BLOCK))


def copy_log(where: str, store: storage.Storage, folder: str, wanted: int | None, target: Path) -> int:
    """Copies the newest checkpoint that a version allows, and the commits behind it. Returns the version.

    Raises:
        ConfigError: the log does not have the version any more, or not yet.
        MissingError: there is no log.
    """
    names = store.list_files(f"{folder}/{LOG}")
    commits = {int(match[1]): name for name in names if (match := COMMIT.fullmatch(name))}
    checkpoints = _checkpoints(names)
    if not commits and not checkpoints:
        hint = "check path: it is the folder that holds _delta_log"
        raise MissingError("is not a Delta table: it has no log", folder, hint=hint)
    newest = max([*commits, *checkpoints])
    version = newest if wanted is None else wanted
    base = max((each for each in checkpoints if each <= version), default=-1)
    behind = range(base + 1, version + 1)
    if version > newest or any(each not in commits for each in behind):
        raise ConfigError(
            f"has no version {version}, or not the whole log of it",
            where,
            f"the newest is {newest}, the log begins with {min([*commits, *checkpoints])}",
            "name a version that the table still has; a table with V2 checkpoints needs a classic one",
        )
    needed = [*checkpoints.get(base, ()), *(commits[each] for each in (base, *behind) if each in commits)]
    target.mkdir()

    def copy(name: str) -> None:
        Path(target, name).write_bytes(store.read(f"{folder}/{LOG}/{name}"))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(copy, needed))
    return version


def _checkpoints(names: Mapping[str, Any]) -> dict[int, list[str]]:
    """Returns the files of each complete checkpoint, by version."""
    found: dict[tuple[int, int], list[str]] = {}
    for name in sorted(names):
        if match := CHECKPOINT.fullmatch(name):
            found.setdefault((int(match[1]), int(match[2] or 1)), []).append(name)
    return {version: parts for (version, count), parts in found.items() if len(parts) == count}


def _refuse_unknown(where: str, protocol: Any) -> None:
    unknown = sorted(set(protocol.reader_features or ()) - FEATURES)
    if protocol.min_reader_version > READER_VERSION:
        unknown.append(f"reader version {protocol.min_reader_version}")
    if unknown:
        hint = "drop the feature from the table, or write its rows as plain Parquet and embed those"
        raise ConfigError(
            "is a Delta table with features that can't be read here", where, ", ".join(unknown), hint
        )


class _Setup:
    """The columns, the mapping and the folder that all files of a version share."""

    def __init__(
        self, where: str, folder: str, source: Source, schema: pa.Schema, told: Mapping[str, Any]
    ) -> None:
        self.where, self.folder = where, folder
        self.mode = dict(told["configuration"]).get("delta.columnMapping.mode", "none")
        self.by_partition = {
            name: _physical(schema.field(name)) if self.mode != "none" else name
            for name in told["partitionColumns"]
        }
        found = wanted_columns(pa.schema([self._marked(each) for each in schema]), source, where)
        self.columns = tuple(
            Column(each.name, each.field, ()) if self._is_partition(each) else each for each in found
        )

    def data_file(self, add: Mapping[str, Any]) -> DataFile:
        """Makes a data file of an action of the log."""
        name = urllib.parse.unquote(add["path"])
        path = f"{self.folder}/{name}"
        if is_url(name) or name.startswith("/"):
            raise self._elsewhere(name)
        values = dict(add["partitionValues"] or ())
        constants = {
            each.name: _constant(values.get(self.by_partition[each.field.name]), each.field.type)
            for each in self.columns
            if self._is_partition(each)
        }
        deletions = self._deletions(add["deletionVector"])
        return data_file(path, add["size"], add["modificationTime"], self.columns, constants, deletions)

    def _deletions(self, vector: Mapping[str, Any] | None) -> tuple[Deletion, ...]:
        if vector is None:
            return ()
        kind, text, rows = vector["storageType"], vector["pathOrInlineDv"], vector["cardinality"]
        if kind == "i":
            return (Deletion("delta", inline=text, rows=rows),)
        if kind == "u":
            path = f"{self.folder}/{vector_name(text)}"
            return (Deletion("delta", path, "", vector["offset"] or 0, vector["sizeInBytes"], "", rows),)
        raise self._elsewhere(text)

    def _is_partition(self, column: Column) -> bool:
        return column.field.name in self.by_partition and len(column.steps) < 2

    def _marked(self, column: pa.Field) -> pa.Field:
        """Returns a field that tells, at each level of structs, by what it is found in a file."""
        told = column.metadata or {}
        kind = column.type
        if pa.types.is_struct(kind):
            kind = pa.struct([self._marked(each) for each in kind])
        if self.mode == "name":
            marks = {PHYSICAL_NAME: told[PHYSICAL_NAME]}
        else:
            marks = {FIELD_ID: told[COLUMN_ID]} if self.mode == "id" else {}
        return pa.field(column.name, kind, column.nullable, marks or None)

    def _elsewhere(self, path: str) -> ConfigError:
        hint = "a shallow clone can't be read: make a deep one, or write its rows as plain Parquet"
        return ConfigError("has files outside of its folder", self.where, path, hint)


def _physical(column: pa.Field) -> str:
    return str((column.metadata or {})[PHYSICAL_NAME].decode())


def _constant(text: str | None, kind: pa.DataType) -> pa.Scalar:
    """Returns the value of a partition column, which the log holds as text; an empty one is null."""
    if not text:
        return pa.scalar(None, kind)
    if pa.types.is_timestamp(kind) and kind.tz:
        instant = pa.array([text.replace("T", " ").removesuffix("Z")]).cast(pa.timestamp("us"))
        return pc.assume_timezone(instant, "UTC").cast(kind)[0]
    return pa.scalar(text, pa.string()).cast(kind)
