"""What a format's module says of it: how its files are surveyed and read, and what the rest may count on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipeline.config.source import Source
from pipeline.source.piece import Piece, RawRows, Survey


class _Survey(Protocol):
    def __call__(self, file: Any, name: str, size: int, source: Source, /) -> Survey: ...


class _Read(Protocol):
    def __call__(
        self, file: Any, pieces: Sequence[Piece], source: Source, columns: pa.Schema, /
    ) -> Iterator[RawRows]: ...


@dataclass(frozen=True, slots=True)
class Format:
    """The facts of a format; `storage` failures pass through its functions.

    survey: says how a file can be cut.  read: gives the rows of pieces of one file, in one pass.
    opened: whether planning opens its files; else `survey` is given no file.
    read_from_end: whether a survey begins at the file's end, and so needs its size before it is opened.
    random_access: whether rows are read without all rows before them, wherever a file is cut by rows.
    isolated: whether native code decides what a file costs, so that another process must look at it.
    types_inferred: whether columns have the types that samples show; anything could be carried as text.
    """

    survey: _Survey
    read: _Read
    opened: bool = True
    read_from_end: bool = False
    random_access: bool = False
    isolated: bool = False
    types_inferred: bool = False
