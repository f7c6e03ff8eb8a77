"""Describes a table of any kind to the planner: the data files of one version, and how each is read."""

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from hashlib import blake2b

import pyarrow as pa

from pipeline.config.source import Source
from pipeline.errors import ConfigError
from pipeline.schema import readable_type
from pipeline.source.piece import named
from pipeline.storage import Listing, ObjectInfo

FIELD_ID = b"PARQUET:field_id"
"""The key under which Arrow keeps the field id of a column of Parquet."""
PHYSICAL_NAME = b"delta.columnMapping.physicalName"


@dataclass(frozen=True, slots=True)
class Step:
    """A step into a column of a data file: by its field id, or by one of its names.

    field_id: None if the table does not go by ids.
    names: what the column may be called in a file without ids.
    """

    field_id: int | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that the config names.

    name: its name in the shards; empty for the text.  field: what it is in the table.
    steps: the way to it in a file; none if no file holds it.
    """

    name: str
    field: pa.Field
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Deletion:
    """A place that lists deleted rows of a data file.

    kind: `delta` (a deletion vector), `parquet` (position deletes) or `puffin` (deletion vectors of Iceberg).
    inline: a deletion vector that the log itself holds; then there is no path.
    offset, size: the place of a deletion vector of Delta.
    target: the data file as position deletes name it.
    rows: how many rows it deletes; None if that is not told.
    """

    kind: str
    path: str = ""
    inline: str = ""
    offset: int = 0
    size: int = 0
    target: str = ""
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class DataFile(ObjectInfo):
    """A live data file of a snapshot. Its version changes whenever its rows in the table do.

    columns: the columns to read, the text first.
    constants: values of partition columns, by the names of columns; a file need not hold these columns.
    deletions: where its deleted rows are listed.
    """

    columns: tuple[Column, ...] = ()
    constants: Mapping[str, pa.Scalar] = field(default_factory=dict)
    deletions: tuple[Deletion, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot(Listing):
    """One version of a table: its live data files.

    version: the version of a Delta table, or the id of a snapshot of Iceberg.
    """

    version: int = 0


def require(where: str, *modules: str) -> None:
    """Checks that modules of an extra are installed.

    Raises:
        ConfigError: one is not.
    """
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        hint = f"pip install {' '.join(module.partition('.')[0] for module in modules)}"
        raise ConfigError("needs a package that is not installed", where, str(error), hint) from None


NO_ALIASES: Mapping[int, Sequence[str]] = {}


def wanted_columns(
    table: pa.Schema, source: Source, where: str, aliases: Mapping[int, Sequence[str]] = NO_ALIASES
) -> tuple[Column, ...]:
    """Returns the columns of a table that a source reads, the text first.

    Args:
        aliases: the names that columns may have in files without field ids, by id.

    Raises:
        ConfigError: the table lacks one, or its type does not fit.
    """
    paths = {"": source.text_column or "", **source.fields}
    found = tuple(_column_at(table, name, path, aliases, where) for name, path in paths.items())
    kind = found[0].field.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        hint = "name another text_column"
        raise ConfigError(f"column {source.text_column!r} is not text", where, str(kind), hint)
    for column in found:
        try:
            readable_type(column.field.type)
        except pa.ArrowNotImplementedError as error:
            what = f"column {column.field.name!r} has a type that some readers refuse"
            raise ConfigError(what, where, str(error), "do not carry it") from None
    return found


def data_file(
    path: str,
    size: int,
    changed: int,
    columns: Sequence[Column],
    constants: Mapping[str, pa.Scalar],
    deletions: Iterable[Deletion],
) -> DataFile:
    """Makes a data file. Its version depends on all that decides about its rows in the table.

    The version begins as that of an object whose storage tells no better one.
    """
    found = sorted(deletions, key=lambda each: (each.path, each.inline, each.offset))
    told = [
        [
            [each.name, str(each.field.type), [[step.field_id, step.names] for step in each.steps]]
            for each in columns
        ],
        [[name, str(value.type), str(value.as_py())] for name, value in sorted(constants.items())],
        [astuple(each) for each in found],
    ]
    digest = blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()
    version = f"{size}-{changed}-{digest}"
    return DataFile(path, size, version, None, tuple(columns), constants, tuple(found))


def _column_at(
    table: pa.Schema, name: str, path: str, aliases: Mapping[int, Sequence[str]], where: str
) -> Column:
    """Finds the column of a table at a dotted path.

    Args:
        name: its name in the shards.
        aliases: the names that columns may have in files without field ids, by id.

    Raises:
        ConfigError: the table has no such column.
    """
    for parts in ([path], path.split(".")):
        if fields := _along(table, parts):
            return Column(name, fields[-1], tuple(_step(each, aliases) for each in fields))
    raise ConfigError(
        "has no such column",
        where,
        f"{path!r} among {named(table.names)}",
        "check text_column, id_column, carry",
    )


def field_id(column: pa.Field) -> int | None:
    """Returns the field id of a column; None if it has none."""
    found = (column.metadata or {}).get(FIELD_ID)
    return int(found) if found else None


def children(kind: pa.DataType | pa.Schema) -> Iterator[pa.Field]:
    """Yields the fields of a schema or a struct; any other type has none."""
    if isinstance(kind, pa.Schema) or pa.types.is_struct(kind):
        yield from kind


def _along(table: pa.Schema, parts: Sequence[str]) -> list[pa.Field]:
    """Returns the field of each part of a path; none if a part leads nowhere."""
    found: list[pa.Field] = []
    inner: pa.Schema | pa.DataType = table
    for part in parts:
        each = next((each for each in children(inner) if each.name == part), None)
        if each is None:
            return []
        found.append(each)
        inner = each.type
    return found


def _step(column: pa.Field, aliases: Mapping[int, Sequence[str]]) -> Step:
    number = field_id(column)
    physical = (column.metadata or {}).get(PHYSICAL_NAME)
    if number is not None:
        return Step(number, tuple(aliases.get(number, ())))
    return Step(None, (physical.decode() if physical else column.name,))
