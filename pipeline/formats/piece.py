"""What a source file is cut into."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a file, with what is known of its rows and bytes of text before it is read."""

    start: int
    stop: int
    rows: float
    text_bytes: float


@dataclass(frozen=True, slots=True)
class Survey:
    """How a file can be cut: `unit` is what positions count, `rows` or `bytes`; spans tile the file.

    `columns` are the fields of the id and carried columns that the file has, in readable types.
    """

    unit: str
    columns: pa.Schema
    spans: tuple[Span, ...]


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
class Raw:
    """Rows as a format reads them: nothing judged, nothing lost.

    texts: strings that may be null or invalid UTF-8.  columns: id and carried columns that the file has.
    positions: (rows,) int64, a row's number in its file, or its byte offset.
    start, stop: the range consumed; for bytes it ends where the last line ends.
    """

    texts: pa.Array
    columns: pa.Table
    positions: pa.Array
    start: int
    stop: int
