"""Draws and tokenizes a bounded sample of a plan's texts, to describe a corpus before all of it is read.

Reads a few stretches, spread evenly over each stratum (a source's files that are cut alike), so that a file's
weight is its size. The same plan gives the same sample.

Cost: about `STRETCHES` stretches (at least two per stratum), `MAX_TEXTS` texts and about `MAX_BYTES` of them.
Parquet is read by row groups of the text column, so that no more are begun after `MAX_READ` bytes.

Shapes: R rows that would be computed, texts or windows of them.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, telemetry
from pipeline.config.sections import Config
from pipeline.dataset.identifiers import Ids, ids_of, repeats
from pipeline.errors import one_line
from pipeline.estimate.legibility import Legibility, measured
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.tokenizer.texts import Tokens, tokenize_all, tokenized
from pipeline.model.tokenizer.tokenizer import Tokenizer, joined
from pipeline.plan.plan import extent, piece_of
from pipeline.plan.sizing import BYTES_PER_LINE
from pipeline.ragged import Ints
from pipeline.source import reader
from pipeline.source.formats import Piece
from pipeline.source.reader import Part

STRETCHES = 16
MAX_TEXTS = 2_000
MAX_BYTES = 4 << 20
MAX_READ = 64 << 20
WHOLE_FILES = 32
"""The most files of a stratum that is read completely, if the sample may hold it."""
SPREAD = 0.618
"""The step of the reading order, in which any first few stretches are spread over the stratum."""


@dataclass(frozen=True)
class Stratum:
    """The files of a source that are cut alike, and their part of the sample.

    unit: the unit of `size` (all) and `covered` (those that were sampled), "rows" or "bytes".
    texts: rows that would be embedded.  rejects: the others, by reason.  text_bytes: bytes of the former.
    lengths: (R,) tokens of each row.  truncated: (R,) true if the row had more.
    unread: the files that could not be read, with the reasons.
    legibility: what the model can read of the texts.
    null_ids, repeated_ids: sampled documents without an id, or with the id of another one.
    """

    source: str
    unit: str
    size: int
    covered: int = 0
    texts: int = 0
    text_bytes: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    lengths: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    truncated: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    unread: tuple[str, ...] = ()
    legibility: Legibility = field(default_factory=Legibility)
    null_ids: int = 0
    repeated_ids: int = 0

    @property
    def weight(self) -> float:
        """Returns how many rows each sampled row stands for; 0 without a sample."""
        return self.size / self.covered if self.covered else 0.0

    @property
    def documents(self) -> int:
        """Counts the sampled rows."""
        return self.texts + self.rejects.total()


@dataclass(frozen=True)
class Sample:
    """All strata, and what was read for the sample: stretches, files, bytes from storage."""

    strata: tuple[Stratum, ...]
    stretches: int = 0
    files: int = 0
    read_bytes: int = 0


@dataclass(frozen=True)
class _Seen:
    """One stretch that was read, with its documents as far as the sample takes them."""

    piece: Piece
    covered: int
    texts: pa.Array
    reasons: Sequence[str]
    ids: Ids


@dataclass(frozen=True)
class _Share:
    """The part of the sample that a stratum may take."""

    stretches: int
    texts: int
    text_bytes: int


def draw(
    pieces: pa.Table, columns: pa.Schema, config: Config, recipe: EmbeddingSpec, tokenizer: Tokenizer
) -> Sample:
    """Samples the texts of some pieces of a plan.

    Args:
        pieces: pieces of splits only, in the plan's order.  columns: the id and carried columns of the plan.
    """
    pieces = pieces.filter(pc.less(pieces.column("start"), pieces.column("stop")))
    strata = list(_strata(pieces, config))
    shares = _shares([schema.total(part, "stored_bytes") for _, part in strata])
    drawn = [_drawn(part, share, config) for (_, part), share in zip(strata, shares, strict=True)]
    before = telemetry.read_bytes.total()
    seen: list[list[_Seen]] = [[] for _ in strata]
    unread: list[list[str]] = [[] for _ in strata]
    bare = _with_ids_alone(config)
    for stratum, piece in _in_turns([pieces for pieces, _ in drawn]):
        if seen[stratum] and telemetry.read_bytes.total() - before > MAX_READ:
            continue
        names = bare.source[piece.source].columns
        part = reader.read_piece(piece, bare, pa.schema([columns.field(name) for name in names]))
        if part.error:
            unread[stratum].append(f"{piece.source_file}: {one_line(part.error)}")
        else:
            seen[stratum].append(_seen(part, drawn[stratum][1], names[0] if names else None))
    found = tuple(
        replace(_stratum(empty, kept, recipe, tokenizer), unread=tuple(dict.fromkeys(bad)))
        for (empty, _), kept, bad in zip(strata, seen, unread, strict=True)
    )
    read = [each.piece for kept in seen for each in kept]
    files = len({piece.source_file for piece in read})
    return Sample(found, len(read), files, telemetry.read_bytes.total() - before)


def _with_ids_alone(config: Config) -> Config:
    """Returns the config, changed so that only the texts and the ids of a source are read."""
    nothing = {"carry": (), "partitions": ()}
    sources = {name: source.model_copy(update=nothing) for name, source in config.source.items()}
    return config.model_copy(update={"source": sources})


def _strata(pieces: pa.Table, config: Config) -> Iterator[tuple[Stratum, pa.Table]]:
    """Yields each stratum, without a sample yet, and its pieces."""
    for name in config.source:
        for unit in ("rows", "bytes"):
            here = pc.and_(pc.equal(pieces.column("source"), name), pc.equal(pieces.column("unit"), unit))
            if (part := pieces.filter(here.fill_null(False))).num_rows:
                yield Stratum(name, unit, extent(part)), part


def _shares(stored: Sequence[int]) -> list[_Share]:
    """Divides the sample among the strata by their stored bytes; each gets at least two stretches."""
    counts = [max(2, round(STRETCHES * each / max(1, sum(stored)))) for each in stored]
    return [
        _Share(count, MAX_TEXTS * count // sum(counts), MAX_BYTES * count // sum(counts)) for count in counts
    ]


def _drawn(pieces: pa.Table, share: _Share, config: Config) -> tuple[list[Piece], int]:
    """Chooses the stretches (all of a small stratum, else evenly spaced ones) and the rows of each."""
    sizes = pc.subtract(pieces.column("stop"), pieces.column("start")).to_numpy()
    rows = sizes.sum() / (1 if pieces.column("unit")[0].as_py() == "rows" else BYTES_PER_LINE)
    files = len(pc.unique(pieces.column("file")))
    fits = rows <= share.texts and schema.total(pieces, "stored_bytes") <= share.text_bytes
    if fits and files <= WHOLE_FILES:
        return _whole(pieces), share.texts
    stops = np.cumsum(sizes)
    cell = stops[-1] / share.stretches
    places = cell * (np.arange(share.stretches) + 0.5)
    hit = np.searchsorted(stops, places, "right")
    inside = places - (stops - sizes)[hit]
    stretches = (
        _stretch(row, middle, cell, share, config)
        for row, middle in zip(pieces.take(pa.array(hit)).to_pylist(), inside.tolist(), strict=True)
    )
    return list(dict.fromkeys(stretches)), max(1, share.texts // share.stretches)


def _whole(pieces: pa.Table) -> list[Piece]:
    """Returns all pieces; joins those that follow each other in a file."""
    whole: list[Piece] = []
    for piece in map(piece_of, pieces.to_pylist()):
        last = whole[-1] if whole else None
        follows = last and (last.source_file, last.stop) == (piece.source_file, piece.start)
        if last and follows and not (last.deleted or piece.deleted):
            whole[-1] = replace(last, stop=piece.stop)
        else:
            whole.append(piece)
    return whole


def _stretch(row: Mapping[str, Any], middle: float, cell: float, share: _Share, config: Config) -> Piece:
    """Returns a part of a piece around a place in it; the file's first rows if it is not seekable."""
    piece, size = piece_of(row), row["stop"] - row["start"]
    most = share.text_bytes / share.stretches
    if piece.unit == "rows":
        most = min(share.texts / share.stretches, most * size / max(1, row["stored_bytes"]))
    half = min(cell, max(1, most)) / 2
    if not reader.seekable(piece, config):
        return replace(piece, start=0, stop=min(piece.stop, max(1, round(2 * half))))
    start = min(max(0, math.floor(middle - half)), size - 1)
    stop = min(size, max(start + 1, math.floor(middle + half)))
    return replace(piece, start=piece.start + start, stop=piece.start + stop)


def _in_turns(drawn: Sequence[Sequence[Piece]]) -> Iterator[tuple[int, Piece]]:
    """Yields the stretches of all strata with the stratum's number: one of each, then the next of each."""
    turns = [
        (turn, stratum, pieces[at])
        for stratum, pieces in enumerate(drawn)
        for turn, at in enumerate(sorted(range(len(pieces)), key=lambda at: at * SPREAD % 1))
    ]
    yield from ((stratum, piece) for _, stratum, piece in sorted(turns, key=lambda each: each[:2]))


def _seen(part: Part, most: int, id_column: str | None) -> _Seen:
    """Returns what was read of a stretch, up to `most` rows."""
    assert part.documents is not None
    rows, rejects = (
        table.column("source_row").to_numpy() for table in (part.documents.rows, part.documents.rejects)
    )
    places = np.sort(np.concatenate([rows, rejects]))
    stop = int(places[most]) if len(places) > most else part.stop
    kept = pa.array(rows < stop)
    texts = part.documents.texts.filter(kept)
    reasons = part.documents.rejects.column("reason").filter(pa.array(rejects < stop)).to_pylist()
    ids = ids_of(part.documents.rows.filter(kept), part.piece.source, id_column)
    return _Seen(part.piece, stop - part.start, texts, reasons, ids)


def _stratum(empty: Stratum, seen: Sequence[_Seen], recipe: EmbeddingSpec, tokenizer: Tokenizer) -> Stratum:
    """Adds its sample to a stratum, in the order of its files."""
    seen = sorted(seen, key=lambda each: (each.piece.file, each.piece.start))
    texts, recipe = [each.texts for each in seen if len(each.texts)], recipe.of_source(empty.source)
    cuts = [tokenize_all(each, lambda some: tokenized(some, tokenizer, recipe)) for each in texts]
    tokens = joined((found for (found, _), _ in cuts), tokenizer.dtype)
    text_R = _texts_of_rows([found for found, _ in cuts])
    failed = Counter(tokenizer_failed=sum(int((~cut_N).sum()) for _, cut_N in cuts))
    texts = [each.filter(pa.array(cut_N)) for each, (_, cut_N) in zip(texts, cuts, strict=True)]
    with repeats() as ids:
        for each in seen:
            ids.add(each.ids.digests)
        repeated_ids = ids.count()
    legibility = measured([text for each in texts for text in schema.plain(each)], tokens, text_R, tokenizer)
    return replace(
        empty,
        covered=sum(each.covered for each in seen),
        texts=sum(map(len, texts)),
        text_bytes=sum(map(schema.text_bytes, texts)),
        rejects=Counter(reason for each in seen for reason in each.reasons) + failed,
        lengths=tokens.lengths,
        truncated=tokens.truncated,
        legibility=legibility,
        null_ids=sum(each.ids.nulls for each in seen),
        repeated_ids=repeated_ids,
    )


def _texts_of_rows(cuts: Sequence[Tokens]) -> Ints:
    """Returns the number of the text of each row, (R,), counted through all stretches."""
    numbers, before = [np.zeros(0, np.int64)], 0
    for tokens, chunks in cuts:
        text = chunks.text if chunks else np.arange(len(tokens.lengths))
        numbers.append(text + before)
        before += int(text[-1]) + 1 if len(text) else 0
    return np.concatenate(numbers)
