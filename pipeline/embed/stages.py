"""The three stages of the flow as plain callables: a one-row table in, one-row tables out.

Nothing here knows Ray. A stage never raises: an exception would end the whole job, so what goes wrong with
a split travels on as data, and the stages after it let it pass.

Into the flow goes a row a scan, with a `note` alone. A row between stages is a split's: `split_id`; `note`,
a JSON object with everything small; and the cells `rows`, `reused`, `rejects` (Arrow IPC), `order`, `ids`,
`lengths`, `windows` and `vectors` (bare buffers).
"""

import collections
import functools
import itertools
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, telemetry
from pipeline.dataset import vectors, writer
from pipeline.dataset.record import START, Failure, ShardRecord
from pipeline.embed.job import Job
from pipeline.embed.row import buffer_to_table, cell, table_to_buffer, uncell
from pipeline.errors import (
    ENDS,
    DeviceError,
    ExitCode,
    NonFiniteError,
    PipelineError,
    StartError,
    UnseenError,
)
from pipeline.model.batching import TokenBatch
from pipeline.model.embedding_spec import Recipe
from pipeline.model.tokenizer.chunks import Chunks
from pipeline.model.tokenizer.texts import tokenize_all, tokenized
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.nightly import reuse
from pipeline.plan.scan_row import splits_of
from pipeline.ragged import Ints, bounds
from pipeline.sanitize import redact
from pipeline.source import reader
from pipeline.source.documents import KEPT_CHARACTERS
from pipeline.source.reader import Part
from pipeline.telemetry import liveness
from pipeline.telemetry.liveness import Sentry

CELLS = ("rows", "reused", "order", "rejects", "ids", "lengths", "windows", "vectors")
PASSED_ON = ("rows", "reused", "order", "rejects")
PATIENCE = 0.1
"""Of the watchdog's time: so long a replica tries to start before it gives up a split."""
FIRST_PAUSE_SECONDS = 1.0


def result(note: str) -> ShardRecord | Failure:
    """What left the flow for one split."""
    content = json.loads(note)
    if "failure" in content:
        return Failure(**(content["failure"] | {"files": tuple(content["failure"]["files"])}))
    return ShardRecord(**content["record"])


def read(row: pa.Table, job: Job, sentry: Sentry | None = None) -> Iterator[pa.Table]:
    """Read and tokenise the splits of a scan, one after the other."""
    splits = splits_of(row)
    wanted = [piece for _, pieces in splits for piece in pieces]
    parts = _Parts(reader.parts(wanted, job.config, job.columns, job.without))
    for split_id, pieces in splits:
        parts.ask_for(len(pieces))
        entering = _row(split_id, {"pieces": [asdict(piece) for piece in pieces]})
        work = functools.partial(_read, parts=parts, job=job)
        yield _guarded("read", entering, work, sentry)


def write(row: pa.Table, job: Job, sentry: Sentry | None = None) -> pa.Table:
    """Write a split's shard; what is left of the row is the note."""
    return _guarded("write", row, functools.partial(_write, job=job), sentry)


class _Parts:
    """The parts of each split of a scan, in order; those that a split did not take are passed over."""

    def __init__(self, parts: Iterator[Part]) -> None:
        self._parts = parts
        self._passed_over = self._wanted = 0

    def ask_for(self, count: int) -> None:
        """The next split has so many."""
        self._passed_over += self._wanted
        self._wanted = count

    def take(self) -> list[Part]:
        """Those of this split."""
        collections.deque(itertools.islice(self._parts, self._passed_over), maxlen=0)
        found = list(itertools.islice(self._parts, self._wanted))
        self._passed_over = self._wanted = 0
        return found


class Encode:
    """A replica that stays: token ids in, vectors out.

    One that can't start says so for the splits that it is given, for raised here it would end the job without
    its name. It tries again for a while before each: the Hub or a mount may be back soon, and replicas that
    did start take the other splits meanwhile.
    """

    def __init__(self, job: Job, sentry: Sentry | None = None) -> None:
        self.job, self.sentry, self.ended = job, sentry, time.perf_counter()
        self.works = False
        self.broken = self._start()

    def _start(self) -> StartError | None:
        # torch stays out of the driver and of the readers and writers: 2 s and 300 MB in each.
        from pipeline.model.encoder import Encoder  # noqa: PLC0415

        config = self.job.config
        try:
            replica = self.job.replica()
            self.encoder = Encoder(
                replica,
                device=config.compute.device,
                dtype=config.dtype,
                recipe=Recipe.of(replica, config.model),
                batch_tokens=config.compute.batch_tokens,
                threads=self.job.threads,
            )
        except PipelineError as error:
            where = f"{error.where} on {platform.node()}".strip()
            return StartError(error.what, where, error.got, error.hint, error.exit_code)
        except ENDS:
            raise
        except BaseException as error:  # torch raises what it likes, and safetensors panics
            where = f"{config.model.name} on {platform.node()}"
            hint = "check the checkpoint's files and the device"
            return StartError("a replica can't start", where, repr(error), hint)
        return None

    def _start_again(self) -> None:
        patience = PATIENCE * 60 * self.job.config.compute.watchdog_minutes
        until, pause = time.monotonic() + patience, FIRST_PAUSE_SECONDS
        while self.broken and time.monotonic() + pause <= until:
            time.sleep(pause)
            telemetry.beat()
            self.broken = self._start()
            pause *= 2
        if self.broken:
            raise self.broken

    def _end_process(self, error: DeviceError) -> None:
        """Where a sentry counts who dies at a split: a new process has a new device, here or elsewhere."""
        if self.sentry:
            telemetry.warn("the process ends", reason=error)
            sys.stderr.flush()
            os._exit(int(error.exit_code))

    def __call__(self, row: pa.Table) -> pa.Table:
        try:
            return _guarded("encode", row, self._encode, self.sentry)
        finally:
            self.ended = time.perf_counter()

    def _encode(self, split_id: str, note: dict[str, Any], cells: Mapping[str, pa.Buffer]) -> pa.Table:
        if self.broken:
            self._start_again()
        started = time.perf_counter()
        tokens = _tokens(cells)
        try:
            encoded = self.encoder.run(tokens)
        except DeviceError as error:
            self._end_process(error)
            raise
        found, too_large = encoded.vectors, encoded.too_large
        if "windows" in cells:
            windows_N = np.frombuffer(cells["windows"], np.int64)
            found = vectors.mean_of_chunks(found, tokens.lengths, windows_N, self.encoder.recipe.normalize)
            too_large = (
                np.logical_or.reduceat(too_large, bounds(windows_N)[:-1]) if len(windows_N) else too_large
            )
        note["figures"] |= {
            "computed_tokens": encoded.computed_tokens,
            "padded_tokens": encoded.padded_tokens,
            "encode_seconds": time.perf_counter() - started,
            "idle_seconds": started - self.ended,
        }
        self._check(found, too_large)
        note["dimension"] = found.shape[1]
        note["too_large"] = np.flatnonzero(too_large).tolist()
        return _row(split_id, note, **{name: cells.get(name) for name in PASSED_ON}, vectors=found)

    def _check(self, found: vectors.Vectors, too_large: npt.NDArray[np.bool_]) -> None:
        """Refuse a split of which too much is not finite; a device that did better before has gone bad.

        Raises:
            NonFiniteError: its vectors are not for the writer.
        """
        where = f"{self.job.config.compute.device} on {platform.node()}"
        try:
            vectors.non_finite(found, too_large, where)
        except NonFiniteError as error:
            if self.works:
                self._end_process(error)
            raise
        self.works = True


class _Meter:
    """What reading and tokenizing a split takes, from here on."""

    def __init__(self) -> None:
        self.started, self.retries = time.perf_counter(), telemetry.retries.total()
        self.read_bytes = telemetry.read_bytes.total()

    def tokenizer(self, job: Job) -> Tokenizer:
        """The job's, when all is read; loading it is a part of tokenizing."""
        self.read = time.perf_counter()
        tokenizer = job.tokenizer()
        self.hits, self.misses = tokenizer.cache.hits, tokenizer.cache.misses
        return tokenizer

    def figures(self, tokenizer: Tokenizer) -> dict[str, float]:
        """As the shard record has them."""
        return {
            "read_bytes": telemetry.read_bytes.total() - self.read_bytes,
            "read_seconds": self.read - self.started,
            "tokenize_seconds": time.perf_counter() - self.read,
            "cache_hits": tokenizer.cache.hits - self.hits,
            "cache_misses": tokenizer.cache.misses - self.misses,
            "storage_retries": telemetry.retries.total() - self.retries,
        }


def _read(
    split_id: str, note: dict[str, Any], _: Mapping[str, pa.Buffer], parts: _Parts, job: Job
) -> pa.Table:
    meter = _Meter()
    found = parts.take()
    reader.refuse_unseen(found, job.without)
    documents = reader.usable(found)
    texts = pa.chunked_array([part.texts for part in documents], pa.large_string()).combine_chunks()
    rows = pa.concat_tables([part.rows for part in documents])
    text_bytes = pc.sum(pc.binary_length(texts)).as_py() or 0
    document_R, reused = _reused(job, split_id, found, rows)
    new_N = np.setdiff1d(np.arange(len(texts)), document_R)
    texts, rows = texts.take(pa.array(new_N)), rows.take(pa.array(new_N))
    tokenizer = meter.tokenizer(job)
    (tokens, windowed), cut_N = tokenize_all(texts, lambda some: tokenized(some, tokenizer, job.recipe))
    rejects = [part.rejects for part in documents]
    if not cut_N.all():
        rejects.append(_rejected(texts, rows, ~cut_N, job))
        rows, new_N = rows.filter(pa.array(cut_N)), new_N[cut_N]
    note["pieces"] = [part.consumed() for part in found]
    note["figures"] = {"attempt": job.attempt, "text_bytes": text_bytes} | meter.figures(tokenizer)
    rows = _with_tokens(rows, tokens, windowed, job.recipe)
    final = schema.rows_schema(job.columns, job.recipe.chunked)
    averaged = job.recipe.long_text == "mean_of_chunks"
    document_E = new_N[windowed.text] if windowed and job.recipe.chunked else new_N
    return _row(
        split_id,
        note,
        rows=table_to_buffer(rows.select(final.names).cast(final)),
        reused=table_to_buffer(reused) if reused else None,
        order=np.concatenate([document_E, document_R]) if reused else None,
        rejects=table_to_buffer(pa.concat_tables(rejects)),
        ids=tokens.ids,
        lengths=tokens.lengths,
        windows=np.bincount(windowed.text, minlength=rows.num_rows) if windowed and averaged else None,
    )


def _rejected(texts: pa.Array, rows: pa.Table, which_N: npt.NDArray[np.bool_], job: Job) -> pa.Table:
    """The rejects of texts that can't be tokenized: by this tokenizer, never."""
    which = pa.array(which_N)
    rows = rows.filter(which)
    texts = pc.utf8_slice_codeunits(texts.filter(which), 0, KEPT_CHARACTERS).cast(pa.string())
    rejects = {
        "source_file": rows.column("source_file"),
        "source_row": rows.column("source_row"),
        "reason": pa.repeat(pa.scalar("tokenizer_failed"), len(texts)),
        "permanent": pa.repeat(pa.scalar(True), len(texts)),
        "text": texts if job.config.output.keep_rejected_text else pa.nulls(len(texts), pa.string()),
    }
    return pa.Table.from_pydict(rejects, schema=schema.REJECTS)


def _reused(job: Job, split_id: str, parts: Sequence[Part], rows: pa.Table) -> tuple[Ints, pa.Table | None]:
    """Of the documents whose vectors the base has: (R,) for each row its document, and the rows."""
    hashes = rows.column("text_hash").combine_chunks()
    known = job.known(split_id, parts, hashes)
    if known is None:
        return np.zeros(0, np.int64), None
    document_R, stored = reuse.matched(known, hashes)
    reused = rows.take(pa.array(document_R))
    for field, column in zip(stored.schema, stored.columns, strict=True):
        reused = reused.append_column(field, column)
    return document_R, reused


def _with_tokens(rows: pa.Table, tokens: TokenBatch, parts: Chunks | None, recipe: Recipe) -> pa.Table:
    """The rows with what their tokens say: `n_tokens`, `truncated`, and the window in chunk mode."""
    counts, truncated = tokens.lengths, tokens.truncated
    if parts and recipe.chunked:
        rows = rows.take(pa.array(parts.text))
        window = (parts.numbers, parts.char_start, parts.char_stop)
        for field, values in zip(schema.CHUNK, window, strict=True):
            rows = rows.append_column(field, pa.array(values.astype(np.int32)))
    elif parts:
        counts = np.bincount(parts.text, counts, rows.num_rows)
        truncated = np.bincount(parts.text, truncated, rows.num_rows) > 0
    rows = rows.append_column("n_tokens", pa.array(counts.astype(np.int32)))
    return rows.append_column("truncated", pa.array(truncated))


def _write(split_id: str, note: dict[str, Any], cells: Mapping[str, pa.Buffer], job: Job) -> pa.Table:
    rows = buffer_to_table(cells["rows"])
    too_large = np.zeros(rows.num_rows, np.bool_)
    too_large[note["too_large"]] = True
    contents = writer.Contents(
        split_id=split_id,
        rows=rows,
        vectors=np.frombuffer(cells["vectors"], np.float32).reshape(-1, note["dimension"]),
        rejects=buffer_to_table(cells["rejects"]),
        pieces=note["pieces"],
        vector=job.recipe.vector,
        too_large=too_large,
        reused=buffer_to_table(cells["reused"]) if "reused" in cells else None,
        order=np.frombuffer(cells["order"], np.int64) if "order" in cells else None,
    )
    record = writer.write(job.dataset(), contents, note["figures"] | job.origin())
    return _row(split_id, {"record": asdict(record)})


def _tokens(cells: Mapping[str, pa.Buffer]) -> TokenBatch:
    """The token batch that `_read` took apart; what was truncated is in the rows."""
    lengths: Ints = np.frombuffer(cells["lengths"], np.int64)
    offsets = bounds(lengths)
    wide = cells["ids"].size > 2 * offsets[-1]
    ids = np.frombuffer(cells["ids"], np.int32 if wide else np.uint16)
    return TokenBatch(ids, offsets, np.zeros(len(lengths), np.bool_))


def _row(split_id: str, note: Mapping[str, Any], **cells: Any) -> pa.Table:
    columns = {"split_id": pa.array([split_id]), "note": pa.array([json.dumps(note)])}
    return pa.table(columns | {name: cell(cells.get(name)) for name in CELLS})


def _guarded(
    stage: str,
    row: pa.Table,
    work: Callable[[str, dict[str, Any], Mapping[str, pa.Buffer]], pa.Table],
    sentry: Sentry | None,
) -> pa.Table:
    """Run a stage's work on one row; whatever it raises becomes the row's failure."""
    split_id, note = row.column("split_id")[0].as_py(), json.loads(row.column("note")[0].as_py())
    if "failure" in note:
        return _row(split_id, note)
    present = [name for name in CELLS if name in row.column_names and row.column(name).null_count == 0]
    try:
        with liveness.at(sentry, split_id, stage):
            return work(split_id, note, {name: uncell(row.column(name)) for name in present})
    except PipelineError as error:
        stage = START if isinstance(error, StartError) else stage
        code, message = int(error.exit_code), str(error)
        kind, files = type(error).__name__, error.files if isinstance(error, UnseenError) else ()
    except ENDS:
        raise
    except BaseException as error:  # the boundary: raised further, it would end every other split's job
        trace = "".join(traceback.format_exception(error))
        code, message = int(ExitCode.BUG), redact(f"a bug of ours: {error!r}\n{trace}")
        kind, files = type(error).__name__, ()
    files = files or tuple(f"{piece['source']}/{piece['file']}" for piece in note["pieces"])
    process = f"{platform.node()} {os.getpid()}"
    failure = Failure(split_id, files, stage, code, message, process, kind)
    return _row(split_id, {"failure": asdict(failure)})
