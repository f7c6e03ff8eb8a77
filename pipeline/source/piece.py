"""The parts of a source file (span, piece), its survey, and the rows that are read from a piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from pipeline.sanitize import strip_control

LONGEST_DOCUMENT = 64 << 20
"""The most bytes of a line, a field or a file that is one document; more is taken as a mistake."""


MAX_NAMES, LONGEST_NAME = 100, 100


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a file, with its rows and bytes of text as far as they are known before it is read.

    stored_bytes: the bytes that reading it takes from storage.
    """

    start: int
    stop: int
    rows: float
    text_bytes: float
    stored_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Survey:
    """The ways to cut a file. Positions count the `unit`, `rows` or `bytes`; spans tile the file.

    columns: the fields of the id and carried columns that the file has, by the shards' names, in readable
        types.
    streamed: True if the file can only be read from its start, so that one scan reads all its splits.
    types_inferred: True if the types of the columns come from samples; any value could be carried as text.
    table, deleted: of a table's data file, how its columns are read (`formats.table_files`), and the
        positions of the rows that the table no longer has.
    """

    unit: str
    columns: pa.Schema
    spans: tuple[Span, ...]
    streamed: bool = False
    types_inferred: bool = False
    table: str = ""
    deleted: pa.Array | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous range [start, stop) of one version of one file of one source.

    table: of a table's data file, how its columns are read (`formats.table_files`); else empty.
    deleted_rows, deleted: how many rows of the range the table no longer has, and which (`source.deleted`).
    """

    source: str
    file: str
    version: str
    size: int
    unit: str
    start: int
    stop: int
    table: str = ""
    deleted_rows: int = 0
    deleted: str = ""

    @property
    def source_file(self) -> str:
        """The name of the file in every shard; it is unique across the sources of a config."""
        return f"{self.source}/{self.file}"


@dataclass(frozen=True, slots=True)
class RawRows:
    """The rows as a format reads them, before any is rejected.

    texts: strings that may be null or invalid UTF-8.
    columns: the id and carried columns that the file has, by the shards' names.
    positions: (rows,) int64, the number of a row in its file, or its byte offset.
    start, stop: the range consumed; if it is in bytes, it ends where the last line ends.
    faults: (rows,) why a row can't be read, empty if it can; None if all rows can.
    """

    texts: pa.Array
    columns: pa.Table
    positions: pa.Array
    start: int
    stop: int
    faults: pa.Array | None = None

    @classmethod
    def of(cls, table: pa.Table, positions: pa.Array, start: int, stop: int) -> Self:
        """Makes the rows from a table of texts, faults and carried columns; only the latter have names."""
        texts, faults, *columns = (column.combine_chunks() for column in table.columns)
        carried = pa.table(columns, names=table.column_names[2:]) if columns else pa.table({})
        return cls(texts, carried, positions, start, stop, faults)


def named(columns: Sequence[str]) -> str:
    """Joins names of columns for a message, without control characters; bounds their number and length."""
    return ", ".join(strip_control(name[:LONGEST_NAME]) for name in columns[:MAX_NAMES])
