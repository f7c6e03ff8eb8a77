"""The bounds of what reading a file may cost, whatever it claims, expands to or does not end.

A valid file is far below these bounds. Content above them fails its file, or rejects its row, and has no
other effect.
"""

from pipeline.errors import SourceError
from pipeline.source.piece import LONGEST_DOCUMENT

MAX_READ = 4 * LONGEST_DOCUMENT
"""Bytes of the rows of a split as they are read. Splits have 64 MiB at most, but some sizes are estimates."""
MAX_ROWS = 4 << 20
"""Rows that start in one range of bytes. Each costs its reader some hundred bytes, however short it is."""
MAX_VALUES = 4 << 20
"""Values of one record, fields of CSV or members of JSON. Each is a Python object, however short it is."""
EXPANSION, ALWAYS_EXPANDED = 1000, 256 << 20
"""The most bytes of content for a stored byte, and the bytes of content that are always accepted.

Text expands 2 to 20 times. A file that expands more is almost empty, and takes hours to be found blank.
"""
ROWS_A_BYTE, ALWAYS_ROWS = 100, 16 << 20
"""The most rows for a stored byte, and the rows of a file that are always accepted."""


def refuse_expansion(size: int, stored: int) -> None:
    """Refuses content that is too large for its stored bytes.

    Raises:
        SourceError: it is.
    """
    if size > max(ALWAYS_EXPANDED, EXPANSION * stored):
        raise SourceError(
            "expands to more than a source may",
            got=f"{stored} bytes become more than {EXPANSION} times as many",
            hint="store it uncompressed if all of it is content, or leave it out",
        )


def refuse_rows(rows: int, stored: int) -> None:
    """Refuses more rows than the stored bytes can hold.

    Raises:
        SourceError: there are more.
    """
    if rows > max(ALWAYS_ROWS, ROWS_A_BYTE * stored):
        raise SourceError(
            "has more rows than a file of its size may",
            got=f"{rows} in {stored} bytes",
            hint="make it again, or leave it out",
        )


def refuse_larger(size: int) -> None:
    """Refuses rows of one split that are far larger than a planned split.

    Raises:
        SourceError: they are.
    """
    if size > MAX_READ:
        raise SourceError(
            "has rows that expand to more than a split may hold",
            got=f"more than {MAX_READ} bytes",
            hint="lower output.rows_per_shard in a new dataset if all of it is content, or leave it out",
        )


def refuse_crowded(rows: int) -> None:
    """Refuses a range of bytes in which too many rows start.

    Raises:
        SourceError: there are too many.
    """
    if rows > MAX_ROWS:
        raise SourceError(
            "has too many lines in one split",
            got=f"{rows}, more than {MAX_ROWS}",
            hint="lower output.max_split_bytes in a new dataset if they are content, or leave it out",
        )
