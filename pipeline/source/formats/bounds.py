"""What a file may cost whoever reads it, whatever it claims, expands to or never ends.

No honest file comes near these bounds. What is beyond them fails its file, or rejects its row, and costs
nothing else.
"""

from pipeline.errors import SourceError
from pipeline.source.piece import LONGEST_DOCUMENT

MAX_READ = 4 * LONGEST_DOCUMENT
"""Bytes of a split's rows as they are read. Splits are made of 64 MiB at most, but some sizes are guesses."""
MAX_ROWS = 4 << 20
"""Rows that start in one range of bytes: each costs its reader some hundred bytes, however short it is."""
MAX_VALUES = 4 << 20
"""Values of one record, fields of CSV or members of JSON: each is an object of Python, however short."""
EXPANSION, ALWAYS_EXPANDED = 1000, 256 << 20
"""How many times its stored bytes content may be; and up to how many bytes nobody asks.

Text is 2 to 20 times. What is more has next to nothing in it, and takes hours to be found blank.
"""
ROWS_A_BYTE, ALWAYS_ROWS = 100, 16 << 20
"""How many rows a stored byte may stand for, and up to how many rows of a file nobody asks."""


def refuse_expansion(size: int, stored: int) -> None:
    """
    Raises:
        SourceError: stored bytes become too many.
    """
    if size > max(ALWAYS_EXPANDED, EXPANSION * stored):
        raise SourceError(
            "expands to more than a source may",
            got=f"{stored} bytes become more than {EXPANSION} times as many",
            hint="store it uncompressed if all that is content, or leave it out",
        )


def refuse_rows(rows: int, stored: int) -> None:
    """
    Raises:
        SourceError: so many rows can't be in so few bytes.
    """
    if rows > max(ALWAYS_ROWS, ROWS_A_BYTE * stored):
        raise SourceError(
            "has more rows than a file of its size may",
            got=f"{rows} in {stored} bytes",
            hint="make it anew, or leave it out",
        )


def refuse_larger(size: int) -> None:
    """
    Raises:
        SourceError: what one split takes of a file is far larger than splits are made.
    """
    if size > MAX_READ:
        raise SourceError(
            "has rows that expand to more than a split may hold",
            got=f"more than {MAX_READ} bytes",
            hint="lower output.rows_per_shard in a new dataset if all that is content, or leave it out",
        )


def refuse_crowded(rows: int) -> None:
    """
    Raises:
        SourceError: too many rows start in one range of bytes.
    """
    if rows > MAX_ROWS:
        raise SourceError(
            "has too many lines in one split",
            got=f"{rows}, more than {MAX_ROWS}",
            hint="lower output.max_split_bytes in a new dataset if they are content, or leave it out",
        )
