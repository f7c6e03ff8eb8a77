"""Finds the texts of some rows at little cost: carried ones, or from sources that are as planned.

Reads at most `MAX_PIECES` pieces of the sources, and `SOURCE_BYTES` in all. A text that would cost more, or
whose file is gone or has changed, is missing.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import telemetry
from pipeline.config.sections import Config
from pipeline.errors import one_line
from pipeline.operate.report.markup import beginning
from pipeline.plan.plan import Plan, piece_of
from pipeline.source import lookup, reader
from pipeline.source.formats import Piece

MAX_PIECES = 500
SOURCE_BYTES = 256 << 20
PIECE_BYTES = 64 << 20
LONGEST = 200
"""Characters of a text."""
THREADS = 4


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Rows of the sample that lie in one piece: their numbers in the sample, and in their file."""

    piece: Piece
    rows: Sequence[int]
    places: Sequence[int]

    @property
    def stretch(self) -> Piece:
        """Returns the part of the piece that must be read."""
        return replace(self.piece, start=min(self.places), stop=max(self.places) + 1)


def texts(config: Config, plan: Plan, rows: pa.Table, splits: Sequence[str]) -> list[str | None]:
    """Returns the start of the text of each row of these splits; None if the text is not available."""
    if not config.report.texts:
        return [None] * rows.num_rows
    found = _carried(config, rows)
    wanted = list(_wanted(config, plan, rows, splits, found))[:MAX_PIECES]
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda each: _read(config, each), wanted)
        for each, documents in zip(wanted, read, strict=True):
            for row, text in zip(each.rows, documents, strict=True):
                found[row] = text
    edges = [name for name in ("char_start", "char_stop") if name in rows.column_names]
    windows = rows.select(edges).to_pylist() if edges else [{}] * rows.num_rows
    return [
        None if text is None else beginning(lookup.window(text, window), LONGEST)
        for text, window in zip(found, windows, strict=True)
    ]


def _carried(config: Config, rows: pa.Table) -> list[str | None]:
    """Returns the texts of sources that carry them."""
    columns = {
        key: name
        for key, source in config.source.items()
        for name, path in source.fields.items()
        if path == source.text_column and name in rows.column_names
    }
    names = [columns.get(file.partition("/")[0]) for file in rows["source_file"].to_pylist()]
    return [rows[name][row].as_py() if name else None for row, name in enumerate(names)]


def _wanted(
    config: Config, plan: Plan, rows: pa.Table, splits: Sequence[str], found: Sequence[str | None]
) -> Iterator[_Wanted]:
    """Yields the pieces to read for rows whose text was not found, as far as they cost little."""
    numbers, left = rows["source_row"].to_pylist(), SOURCE_BYTES
    missing: dict[str, list[int]] = {}
    for row, file in enumerate(rows["source_file"].to_pylist()):
        if found[row] is None:
            missing.setdefault(file, []).append(row)
    ours = plan.pieces.filter(pc.is_in(plan.pieces["split_id"], pa.array(splits, pa.string())))
    for planned in ours.to_pylist():
        piece = piece_of(planned)
        inside = [row for row in missing.get(piece.source_file, ()) if _holds(piece, numbers[row])]
        cost = planned["stored_bytes"] if reader.seekable(piece, config) else piece.size
        if inside and cost <= min(left, PIECE_BYTES):
            left -= cost
            yield _Wanted(piece, inside, [numbers[row] for row in inside])


def _holds(piece: Piece, place: int) -> bool:
    return piece.start <= place < piece.stop


def _read(config: Config, wanted: _Wanted) -> list[str | None]:
    try:
        return list(lookup.documents(config, wanted.stretch, wanted.places)["text"].to_pylist())
    except Exception as error:  # the boundary: a source that is gone or damaged must not fail the report
        telemetry.event("texts not shown", file=wanted.piece.source_file, reason=one_line(error))
        return [None] * len(wanted.rows)
