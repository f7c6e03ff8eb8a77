"""What a source file is cut into, and what comes out of a piece of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

LONGEST_DOCUMENT = 64 << 20
"""Bytes of a line, a field or a file that is one document; more is no document but a mistake."""


MAX_NAMES, LONGEST_NAME = 100, 100


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a file, with what is known of its rows and bytes of text before it is read.

    stored_bytes: what reading it takes from storage.
    """

    start: int
    stop: int
    rows: float
    text_bytes: float
    stored_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Survey:
    """How a file can be cut: `unit` is what positions count, `rows` or `bytes`; spans tile the file.

    columns: the fields of the id and carried columns that the file has, by the shards' names, in readable
        types.
    streamed: the file can only be read from its start, so all its splits are read in one scan.
    types_inferred: they are those that samples show; anything could be carried as text.
    """

    unit: str
    columns: pa.Schema
    spans: tuple[Span, ...]
    streamed: bool = False
    types_inferred: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous range [start, stop) of one version of one file of one source."""

    source: str
    file: str
    version: str
    size: int
    unit: str
    start: int
    stop: int

    @property
    def source_file(self) -> str:
        """The file's name in every shard: unique across the sources of a config."""
        return f"{self.source}/{self.file}"


@dataclass(frozen=True, slots=True)
class RawRows:
    """Rows as a format reads them: nothing judged, nothing lost.

    texts: strings that may be null or invalid UTF-8.
    columns: id and carried columns that the file has, by the shards' names.
    positions: (rows,) int64, a row's number in its file, or its byte offset.
    start, stop: the range consumed; for bytes it ends where the last line ends.
    faults: (rows,) why a row can't be read, empty where it can; None where all can.
    """

    texts: pa.Array
    columns: pa.Table
    positions: pa.Array
    start: int
    stop: int
    faults: pa.Array | None = None

    @classmethod
    def of(cls, table: pa.Table, positions: pa.Array, start: int, stop: int) -> Self:
        """From a table of texts, faults, and then the carried columns; only these have names."""
        texts, faults, *columns = (column.combine_chunks() for column in table.columns)
        carried = pa.table(columns, names=table.column_names[2:]) if columns else pa.table({})
        return cls(texts, carried, positions, start, stop, faults)


def named(columns: Sequence[str]) -> str:
    """Some columns' names, for a message; there may be many, and long ones."""
    return ", ".join(name[:LONGEST_NAME] for name in columns[:MAX_NAMES])
