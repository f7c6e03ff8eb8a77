"""Writes complete datasets from rows that a test names, without a model: what a run would leave."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import parquet_bytes
from pipeline.dataset.writer import Contents, write
from pipeline.plan.plan import Plan

MODEL = {
    "model.weights": "w", "model.long_text": "truncate", "model.vector": "float32", "model.dense": None,
    "model.pooling": "mean", "model.truncate_dim": None,
}  # fmt: skip
CONFIG = {"source": {"docs": {"path": "/corpus/*.txt"}}, "output": {"path": "/out"}}
COLUMNS = pa.schema([pa.field("key", pa.int64()), pa.field("topic", pa.string())])
Row = Mapping[str, Any]
"""A row of a source: its id `key`, its `text`, and the carried `topic`; in windows with `chunk`."""
Files = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Kind:
    """The config and the model of a dataset.

    id_column: None if rows have the ids that the pipeline makes.  vector: changes the vectors of all texts.
    model: stands for the weights.  source: the name of the only source.
    """

    columns: pa.Schema = COLUMNS
    id_column: str | None = "key"
    chunked: bool = False
    vector: int = 0
    model: str = "w"
    source: str = "docs"
    dimensions: int = 4

    @property
    def identity(self) -> Identity:
        model = {**MODEL, "model.weights": self.model, "model.config.hidden_size": self.dimensions}
        model |= {"model.long_text": "chunks"} if self.chunked else {}
        fields = {f"source.{self.source}.path": "/corpus", f"source.{self.source}.id_column": self.id_column}
        return Identity(model, fields)

    @property
    def carried(self) -> pa.Schema:
        """Returns the id column and the carried columns."""
        if self.id_column:
            return self.columns
        own = [field for field in self.columns if field.name != "key"]
        return pa.schema([pa.field("id", pa.string()), *own])


def digest(*parts: object) -> bytes:
    return blake2b(repr(parts).encode(), digest_size=16).digest()


def made(root: str, files: Files, kind: Kind | None = None, **summary: Any) -> Dataset:
    """Writes a complete dataset with a shard for each file; an unchanged file gives the same shard.

    Args:
        summary: more fields of summary.json.
    """
    kind = kind or Kind()
    dataset, identity = claimed(root, kind), kind.identity
    pieces = []
    for file, rows in files.items():
        contents = _contents(file, rows, kind)
        pieces.append(_piece(contents, file, len(rows), kind))
        digests = {"dataset_digest": identity.dataset_digest, "vector_digest": identity.vector_digest}
        write(dataset, contents, {"attempt": "a"} | digests)
    plan = Plan(pa.Table.from_pylist(pieces, schema.PLAN), kind.carried, identity.dataset_digest)
    dataset.freeze(plan.to_bytes())
    complete(dataset, **summary)
    return dataset


def claimed(root: str, kind: Kind) -> Dataset:
    """Writes the dataset.json of a dataset."""
    dataset = Dataset(root)
    content = kind.identity.to_bytes(parse_config(CONFIG), None, digest(root).hex())
    dataset.storage.put_if_absent(dataset.layout.identity, content)
    return dataset


def complete(dataset: Dataset, **summary: Any) -> None:
    """Writes manifest, summary and `_SUCCESS` of a dataset with all its shards."""
    layout, store, claim = dataset.layout, dataset.storage, dataset.claim_file()
    records = dataset.records(dataset.shards())
    store.put(layout.manifest, parquet_bytes(records))
    rows = pc.sum(records.column("rows")).as_py() or 0
    told = {"rows": rows, "claim": claim.token, "dataset_digest": claim.digests()[0]}
    store.put(layout.summary, json.dumps({**told, **summary}).encode())
    store.put_if_absent(layout.success, b"")


def _contents(file: str, rows: Sequence[Row], kind: Kind) -> Contents:
    wanted = schema.rows_schema(kind.carried, kind.chunked)
    made = [_row(f"{kind.source}/{file}", at, row, kind) for at, row in enumerate(rows)]
    table = pa.Table.from_pylist(made, schema=wanted)
    texts = [digest(row["text"], kind.vector) for row in rows]
    vectors = np.frombuffer(b"".join(texts), "<u2").reshape(-1, 8)[:, : kind.dimensions].astype(np.float32)
    split = digest(kind.identity.dataset_digest, file, [sorted(row.items()) for row in rows]).hex()[:16]
    piece = {"source": kind.source, "file": file, "start": 0, "stop": len(rows), "error": None}
    return Contents(
        split, table, {"embedding": vectors}, schema.REJECTS.empty_table(), [piece], kind.identity.outputs
    )


def _row(source_file: str, at: int, row: Row, kind: Kind) -> dict[str, Any]:
    ours = {
        "n_tokens": len(row["text"].split()), "truncated": False, "text_hash": digest(row["text"]),
        "source_file": source_file, "source_row": row.get("row", at), "char_start": 0, "char_stop": 1,
    }  # fmt: skip
    own = {} if kind.id_column else {"id": f"{source_file}#{ours['source_row']}"}
    return {**row, **own, **ours}


def _piece(contents: Contents, file: str, rows: int, kind: Kind) -> dict[str, Any]:
    return {
        "split": 0, "split_id": contents.split_id, "scan": 0, "source": kind.source, "file": file,
        "version": "v", "size": 1, "unit": "rows", "start": 0, "stop": rows, "stored_bytes": 1,
    }  # fmt: skip


def rows(dataset: Dataset) -> list[dict[str, Any]]:
    """Returns all rows of a dataset."""
    return list(_rows(dataset))


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for info in dataset.shards().values():
        yield from pq.ParquetFile(pa.BufferReader(dataset.storage.read(info.path))).read().to_pylist()
