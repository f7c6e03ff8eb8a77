"""Divides a stream of rows among the pieces that own them."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.source.formats import bounds
from pipeline.source.piece import Piece


def in_ranges(
    tables: Iterable[pa.Table], pieces: Sequence[Piece], first: int = 0
) -> Iterator[tuple[Piece, pa.Table]]:
    """Yields each piece, in order, with its rows from a stream of tables. Stops reading after the last row.

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
                    "has fewer rows than were planned",
                    got=f"{found} of {piece.stop - piece.start}",
                    hint="make it again, or leave it out",
                )
        yield piece, pa.concat_tables(kept)
