"""The description of a format: the functions that survey and read its files, and its properties."""

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
    """The functions and properties of a format. Failures of `storage` pass through the functions.

    survey: finds how a file can be cut.  read: yields the rows of pieces of one file, in one pass.
    opened: True if the planner opens its files; else `survey` gets None instead of a file.
    read_from_end: True if a survey begins at the end of a file, so that opening it needs its size.
    random_access: True if rows are read without all rows before them, wherever a file is cut by rows.
    isolated: True if native code decides what a file costs, so that another process must survey it.
    types_inferred: True if the types of the columns come from samples; any value could be carried as text.
    """

    survey: _Survey
    read: _Read
    opened: bool = True
    read_from_end: bool = False
    random_access: bool = False
    isolated: bool = False
    types_inferred: bool = False
