"""Rows that can only be read one after the other, given to the pieces that own them."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.source.formats import bounds
from pipeline.source.piece import Piece


def in_ranges(
    tables: Iterable[pa.Table], pieces: Sequence[Piece], first: int = 0
) -> Iterator[tuple[Piece, pa.Table]]:
    """For each piece, in order, its rows out of a stream of tables; no table is read after the last row.

    Args:
        first: the number of the stream's first row.

    Raises:
        SourceError: the stream ends before a piece does, or a piece's rows are too large.
    """
    stream, position = iter(tables), first
    table: pa.Table | None = None
    for piece in pieces:
        kept: list[pa.Table] = []
        size = 0
        while True:
            if table is not None:
                begin, end = max(piece.start - position, 0), min(piece.stop - position, table.num_rows)
                if begin < end:
                    kept.append(table.slice(begin, end - begin))
                    size += kept[-1].nbytes
                    bounds.refuse_larger(size)
                if piece.stop <= position + table.num_rows:
                    break
                position += table.num_rows
            table = next(stream, None)
            if table is None:
                found = sum(part.num_rows for part in kept)
                raise SourceError(
                    "has fewer rows than it had",
                    got=f"{found} of {piece.stop - piece.start}",
                    hint="make it anew, or leave it out",
                )
        yield piece, pa.concat_tables(kept)
