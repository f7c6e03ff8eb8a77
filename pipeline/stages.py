"""The three stages of the flow as plain callables: a one-row table in, a one-row table out.

Nothing here knows Ray. A stage never raises: an exception would end the whole job, so what goes wrong with
a split travels on as data, and the stages after it let it pass.

A row between stages: `split_id`; `note`, a JSON object with everything small; and the cells `rows`,
`rejects` (Arrow IPC), `ids` and `vectors` (bare buffers).
"""

import functools
import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import checkpoint, formats, schema, writer
from pipeline.batching import TokenBatch
from pipeline.config import Config
from pipeline.dataset import Dataset, Identity, ShardRecord
from pipeline.errors import ExitCode, ModelError, PipelineError
from pipeline.formats import Piece
from pipeline.payload import buffer_to_table, cell, table_to_buffer, uncell
from pipeline.plan import file_path
from pipeline.tokenizer import Tokenizer

CELLS = ("rows", "rejects", "ids", "vectors")


@dataclass(frozen=True)
class Job:
    """What every worker is told: the config, the pinned checkpoint, and whose shards these are."""

    config: Config
    columns: pa.Schema
    revision: str | None
    vector_digest: str
    tokenizer_digest: str
    attempt: str
    threads: int | None = None

    def replica(self) -> checkpoint.Checkpoint:
        """The driver's checkpoint, on this node.

        Raises:
            ModelError: what this node finds under its name is another.
        """
        found = checkpoint.resolve(self.config.model.name, self.revision)
        if Identity.of(self.config, found).vector_digest != self.vector_digest:
            raise ModelError("this node has another checkpoint than the driver", str(found.folder))
        return found

    def tokenizer(self) -> Tokenizer:
        """The driver's tokenizer, on this node.

        Raises:
            ModelError: what this node finds under its name is another.
        """
        model = self.config.model
        return _cached_tokenizer(model.name, self.revision, model.max_tokens, self.tokenizer_digest)


@dataclass(frozen=True)
class Failure:
    """A split that could not be done, and why."""

    split_id: str
    files: tuple[str, ...]
    stage: str
    exit_code: int
    message: str


def usable_checkpoint(config: Config) -> checkpoint.Checkpoint:
    """The checkpoint of a config, with all checked that needs no torch: before any worker is asked for.

    Raises:
        ModelError: it can't be used.
    """
    found = checkpoint.resolve(config.model.name, config.model.revision)
    found.weights()
    Tokenizer(found, config.model.max_tokens)
    return found


def feed_row(split_id: str, pieces: list[Piece]) -> dict[str, str]:
    """A split as it enters the flow."""
    return {"split_id": split_id, "note": json.dumps({"pieces": [asdict(piece) for piece in pieces]})}


def result(note: str) -> ShardRecord | Failure:
    """What left the flow for one split."""
    content = json.loads(note)
    if "failure" in content:
        return Failure(**(content["failure"] | {"files": tuple(content["failure"]["files"])}))
    return ShardRecord(**content["record"])


def read(row: pa.Table, job: Job) -> pa.Table:
    """Read and tokenise a split."""
    return _guarded("read", row, lambda split_id, note, _: _read(split_id, note, job))


def write(row: pa.Table, job: Job) -> pa.Table:
    """Write a split's shard; what is left of the row is the note."""
    return _guarded("write", row, lambda split_id, note, cells: _write(split_id, note, cells, job))


class Encode:
    """A replica that stays: token ids in, vectors out."""

    def __init__(self, job: Job) -> None:
        # torch stays out of the driver and of the readers and writers: 2 s and 300 MB in each.
        from pipeline.encoder import Encoder  # noqa: PLC0415

        self.broken: PipelineError | None = None
        config = job.config
        try:
            self.encoder = Encoder(
                job.replica(),
                device=config.compute.device,
                dtype=config.dtype,
                pooling=config.pooling,
                normalize=config.model.normalize,
                batch_tokens=config.compute.micro_batch_tokens,
                threads=job.threads,
            )
        except PipelineError as error:
            # Raised here it would end the job without its name; raised for each split it is reported.
            self.broken = error
        except Exception as error:  # torch raises what it likes
            self.broken = ModelError("a replica can't start", config.model.name, repr(error))

    def __call__(self, row: pa.Table) -> pa.Table:
        return _guarded("encode", row, self._encode)

    def _encode(self, split_id: str, note: dict[str, Any], cells: Mapping[str, pa.Buffer]) -> pa.Table:
        if self.broken:
            raise self.broken
        started = time.perf_counter()
        rows = buffer_to_table(cells["rows"])
        encoded = self.encoder.encode(_tokens(rows, cells["ids"]))
        note["figures"] |= {
            "padded_tokens": encoded.padded_tokens,
            "encode_seconds": time.perf_counter() - started,
        }
        note["dimension"] = encoded.vectors.shape[1]
        kept = {name: cells[name] for name in ("rows", "rejects")}
        return _row(split_id, note, **kept, vectors=encoded.vectors)


def _read(split_id: str, note: dict[str, Any], job: Job) -> pa.Table:
    started = time.perf_counter()
    documents, consumed = [], []
    for values in note["pieces"]:
        piece = Piece(**values)
        source = job.config.source[piece.source]
        raw = formats.read(file_path(source, piece.file), piece, source)
        documents.append(formats.sift(raw, piece, job.columns, job.config.output.keep_rejected_text))
        consumed.append({"source": piece.source, "file": piece.file, "start": raw.start, "stop": raw.stop})
    texts = pa.chunked_array([part.texts for part in documents], pa.large_string()).combine_chunks()
    read = time.perf_counter()
    tokenizer = job.tokenizer()
    hits, misses = tokenizer.cache.hits, tokenizer.cache.misses
    tokens = tokenizer.encode(texts)
    note["pieces"] = consumed
    note["figures"] = {
        "attempt": job.attempt,
        "text_bytes": pc.sum(pc.binary_length(texts)).as_py() or 0,
        "read_seconds": read - started,
        "tokenize_seconds": time.perf_counter() - read,
        "cache_hits": tokenizer.cache.hits - hits,
        "cache_misses": tokenizer.cache.misses - misses,
    }
    rows = pa.concat_tables([part.rows for part in documents])
    rows = rows.append_column("n_tokens", pa.array(tokens.lengths.astype(np.int32)))
    rows = rows.append_column("truncated", pa.array(tokens.truncated))
    final = schema.rows_schema(job.columns)
    return _row(
        split_id,
        note,
        rows=table_to_buffer(rows.select(final.names).cast(final)),
        rejects=table_to_buffer(pa.concat_tables([part.rejects for part in documents])),
        ids=tokens.ids,
    )


def _write(split_id: str, note: dict[str, Any], cells: Mapping[str, pa.Buffer], job: Job) -> pa.Table:
    contents = writer.Contents(
        split_id=split_id,
        rows=buffer_to_table(cells["rows"]),
        vectors=np.frombuffer(cells["vectors"], np.float32).reshape(-1, note["dimension"]),
        rejects=buffer_to_table(cells["rejects"]),
        pieces=note["pieces"],
    )
    record = writer.write(Dataset(job.config.output.path), contents, note["figures"])
    return _row(split_id, {"record": asdict(record)})


@functools.cache
def _cached_tokenizer(model: str, revision: str | None, max_tokens: int, digest: str) -> Tokenizer:
    """One a process: it is expensive to load, and what it has seen makes it faster."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # Ray runs as many readers as there are CPUs
    found = checkpoint.resolve(model, revision)
    if found.tokenizer_digest != digest:
        raise ModelError("this node has another tokenizer than the driver", str(found.folder))
    return Tokenizer(found, max_tokens)


def _tokens(rows: pa.Table, ids: pa.Buffer) -> TokenBatch:
    """The token batch that `_read` took apart."""
    lengths = rows.column("n_tokens").to_numpy().astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    wide = ids.size > 2 * offsets[-1]
    return TokenBatch(
        np.frombuffer(ids, np.int32 if wide else np.uint16), offsets, rows.column("truncated").to_numpy()
    )


def _row(split_id: str, note: Mapping[str, Any], **cells: Any) -> pa.Table:
    columns = {"split_id": pa.array([split_id]), "note": pa.array([json.dumps(note)])}
    return pa.table(columns | {name: cell(cells.get(name)) for name in CELLS})


def _guarded(
    stage: str, row: pa.Table, work: Callable[[str, dict[str, Any], Mapping[str, pa.Buffer]], pa.Table]
) -> pa.Table:
    """Run a stage's work on one row; whatever it raises becomes the row's failure."""
    split_id, note = row.column("split_id")[0].as_py(), json.loads(row.column("note")[0].as_py())
    if "failure" in note:
        return _row(split_id, note)
    present = [name for name in CELLS if name in row.column_names and row.column(name).null_count == 0]
    try:
        return work(split_id, note, {name: uncell(row.column(name)) for name in present})
    except PipelineError as error:
        code, message = int(error.exit_code), str(error)
    except Exception as error:  # the boundary: raised further, it would end every other split's job
        trace = "".join(traceback.format_exception(error))
        code, message = int(ExitCode.BUG), f"a bug of ours: {error!r}\n{trace}"
    files = tuple(f"{piece['source']}/{piece['file']}" for piece in note["pieces"])
    return _row(split_id, {"failure": asdict(Failure(split_id, files, stage, code, message))})
