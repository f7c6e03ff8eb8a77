"""Runs a read task: reads and tokenizes the splits of a scan, one after the other.

Shapes: N documents of a split to embed, R rows that are reused, E rows that are embedded (the documents, or
chunks of them).
"""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, telemetry
from pipeline.embed.job import Job
from pipeline.embed.row import run_stage
from pipeline.embed.split import PackedTable, ReadSplit
from pipeline.model.batching import TokenBatch
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.tokenizer.chunks import Chunks
from pipeline.model.tokenizer.texts import tokenize_all, tokenized
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.nightly.documents import match_hashes
from pipeline.plan.scan_row import splits_of
from pipeline.ragged import Ints
from pipeline.source import reader
from pipeline.source.documents import KEPT_CHARACTERS, Documents
from pipeline.source.reader import Part
from pipeline.telemetry.liveness import Heartbeat

Reading = Iterator[tuple[str, list[Part]]]
"""The splits of a scan, as `reader.read_splits` yields them."""


def read_scan(row: pa.Table, job: Job, sentry: Heartbeat | None = None) -> Iterator[pa.Table]:
    """Reads the splits of a scan; yields a row for each."""
    splits = splits_of(row)
    reading = reader.read_splits(splits, job.config, job.columns, job.without)
    for split_id, pieces in splits:
        work = functools.partial(read_split, split_id, reading, job)
        yield run_stage("read", split_id, [piece.source_file for piece in pieces], work, sentry)


def read_split(split_id: str, reading: Reading, job: Job) -> ReadSplit:
    """Reads and tokenizes one split of a scan."""
    meter = _Meter()
    # Skips what is left of an earlier split that is not tried again.
    parts = next(parts for of, parts in reading if of == split_id)
    reader.refuse_unseen(parts, job.without)
    documents = _joined(reader.usable(parts))
    text_bytes = schema.text_bytes(documents.texts)
    reused = _reused(job, split_id, parts, documents.rows)
    new = _without(documents, reused.document)
    del documents  # of several files it is a copy, which tokenizing need not keep in memory
    meter.has_read()
    tokenizer = job.tokenizer()
    meter.has_tokenizer(tokenizer)
    # A split is of one source.
    recipe = job.recipe.of_source(parts[0].piece.source)
    embedded = _tokenize(new, tokenizer, recipe, job)
    told = {"attempt": job.attempt, "text_bytes": text_bytes, **_legibility(embedded.tokens, tokenizer)}
    return _packed(split_id, parts, embedded, reused, told | meter.figures(tokenizer), job)


def _joined(parts: Sequence[Documents]) -> Documents:
    """Joins the documents of all parts."""
    texts = pa.chunked_array([part.texts for part in parts], parts[0].texts.type).combine_chunks()
    rows = pa.concat_tables([part.rows for part in parts])
    return Documents(texts, rows, pa.concat_tables([part.rejects for part in parts]))


@dataclass(frozen=True, slots=True)
class _Reused:
    """The rows of a split that a base has.

    document: (R,) the number of each row's document.  rows: None without a base.
    """

    document: Ints
    rows: pa.Table | None = None


def _reused(job: Job, split_id: str, parts: Sequence[Part], rows: pa.Table) -> _Reused:
    hashes = rows.column("text_hash").combine_chunks()
    known = job.known(split_id, parts, hashes)
    if known is None:
        return _Reused(np.zeros(0, np.int64))
    document_R, stored = match_hashes(known, hashes)
    reused = rows.take(pa.array(document_R))
    for field, column in zip(stored.schema, stored.columns, strict=True):
        reused = reused.append_column(field, column)
    return _Reused(document_R, reused)


@dataclass(frozen=True, slots=True)
class _New:
    """Documents to embed, and their numbers among all documents of the split, (N,)."""

    documents: Documents
    number: Ints


def _without(documents: Documents, document_R: Ints) -> _New:
    """Leaves out the documents that are reused."""
    new_N = np.setdiff1d(np.arange(len(documents.texts)), document_R)
    at = pa.array(new_N)
    return _New(replace(documents, texts=documents.texts.take(at), rows=documents.rows.take(at)), new_N)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The rows to embed.

    rows: (E,) as their shard has them, without outputs.  number: (E,) the number of each row's document.
    chunks: (E,) the number of chunks whose mean each row is; None if rows are not means.
    """

    rows: pa.Table
    rejects: pa.Table
    number: Ints
    tokens: TokenBatch
    chunks: Ints | None


def _tokenize(new: _New, tokenizer: Tokenizer, recipe: EmbeddingSpec, job: Job) -> _Embedded:
    """Cuts texts into tokens, and into chunks if the recipe says so; texts that can't be cut are rejects."""
    texts, rows, number_N = new.documents.texts, new.documents.rows, new.number
    (tokens, chunks), cut_N = tokenize_all(texts, lambda some: tokenized(some, tokenizer, recipe))
    rejects = new.documents.rejects
    if not cut_N.all():
        rejects = pa.concat_tables([rejects, _rejected(texts, rows, ~cut_N, job)])
        rows, number_N = rows.filter(pa.array(cut_N)), number_N[cut_N]
    counts_N = np.bincount(chunks.text, minlength=rows.num_rows) if chunks else None
    if chunks and recipe.chunked:
        rows = _rows_of_chunks(rows, tokens, chunks)
        return _Embedded(rows, rejects, number_N[chunks.text], tokens, None)
    return _Embedded(_rows_of_texts(rows, tokens, chunks), rejects, number_N, tokens, counts_N)


def _legibility(tokens: TokenBatch, tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the figures of a record that say how much of the texts the vocabulary has."""
    specials = tokenizer.specials if tokens.second is None else tokenizer.pair_specials
    return {
        "text_tokens": len(tokens.ids) - len(tokens.lengths) * specials,
        "unknown_tokens": int(tokenizer.is_unknown(tokens.ids).sum()),
    }


def _rejected(texts: pa.Array, rows: pa.Table, which_N: npt.NDArray[np.bool_], job: Job) -> pa.Table:
    """Returns the rejects of texts that can't be tokenized; with this tokenizer, they are permanent."""
    which = pa.array(which_N)
    rows = rows.filter(which)
    texts = pc.utf8_slice_codeunits(schema.parts_of(texts.filter(which))[0], 0, KEPT_CHARACTERS).cast(
        pa.string()
    )
    rejects = {
        "source_file": rows.column("source_file"),
        "source_row": rows.column("source_row"),
        "reason": pa.repeat(pa.scalar("tokenizer_failed"), len(texts)),
        "permanent": pa.repeat(pa.scalar(True), len(texts)),
        "text": texts if job.config.output.keep_rejected_text else pa.nulls(len(texts), pa.string()),
    }
    return pa.Table.from_pydict(rejects, schema=schema.REJECTS)


def _rows_of_chunks(rows: pa.Table, tokens: TokenBatch, chunks: Chunks) -> pa.Table:
    """Returns a row for each chunk of the texts."""
    rows = rows.take(pa.array(chunks.text))
    columns = (chunks.numbers, chunks.char_start, chunks.char_stop)
    for field, values in zip(schema.CHUNK, columns, strict=True):
        rows = rows.append_column(field, pa.array(values.astype(np.int32)))
    return _with_tokens(rows, tokens.lengths, tokens.truncated)


def _rows_of_texts(rows: pa.Table, tokens: TokenBatch, chunks: Chunks | None) -> pa.Table:
    """Returns a row for each text; a text in chunks has the tokens of all of them."""
    if chunks is None:
        return _with_tokens(rows, tokens.lengths, tokens.truncated)
    counts_N = np.bincount(chunks.text, tokens.lengths, rows.num_rows)
    return _with_tokens(rows, counts_N, np.bincount(chunks.text, tokens.truncated, rows.num_rows) > 0)


def _with_tokens(rows: pa.Table, counts_E: npt.NDArray[Any], truncated_E: npt.NDArray[np.bool_]) -> pa.Table:
    """Adds the columns about tokens to rows."""
    rows = rows.append_column("n_tokens", pa.array(counts_E.astype(np.int32)))
    return rows.append_column("truncated", pa.array(truncated_E))


def _packed(
    split_id: str,
    parts: Sequence[Part],
    embedded: _Embedded,
    reused: _Reused,
    figures: dict[str, Any],
    job: Job,
) -> ReadSplit:
    final = schema.rows_schema(job.columns, job.recipe.chunked)
    return ReadSplit(
        split_id=split_id,
        pieces=[part.consumed() for part in parts],
        rows=PackedTable.of(embedded.rows.select(final.names).cast(final)),
        rejects=PackedTable.of(embedded.rejects),
        reused=PackedTable.of(reused.rows) if reused.rows else None,
        order=np.concatenate([embedded.number, reused.document]) if reused.rows else None,
        figures=figures,
        ids=embedded.tokens.ids,
        lengths=embedded.tokens.lengths,
        chunks=embedded.chunks,
        second=embedded.tokens.second,
        places=embedded.tokens.places,
    )


class _Meter:
    """Measures the cost of reading and tokenizing a split, from its creation on."""

    def __init__(self) -> None:
        self.started, self.retries = time.perf_counter(), telemetry.retries.total()
        self.read_bytes = telemetry.read_bytes.total()

    def has_read(self) -> None:
        """Ends the time of reading; loading the tokenizer counts as tokenizing."""
        self.read = time.perf_counter()

    def has_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Begins to count the hits and misses of the tokenizer's cache."""
        self.hits, self.misses = tokenizer.cache.hits, tokenizer.cache.misses

    def figures(self, tokenizer: Tokenizer) -> dict[str, float]:
        """Returns the figures as fields of the shard record."""
        return {
            "read_bytes": telemetry.read_bytes.total() - self.read_bytes,
            "read_seconds": self.read - self.started,
            "tokenize_seconds": time.perf_counter() - self.read,
            "cache_hits": tokenizer.cache.hits - self.hits,
            "cache_misses": tokenizer.cache.misses - self.misses,
            "storage_retries": telemetry.retries.total() - self.retries,
        }
