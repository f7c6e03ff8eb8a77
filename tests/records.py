"""Makes datasets as a run would leave them, without one: shards without content, and their records."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import RECORD, ShardRecord, parquet_bytes, to_table
from pipeline.model import checkpoint
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan

NOTHING: dict[str, Any] = {field.name: 0 for field in RECORD if pa.types.is_primitive(field.type)} | {
    "token_histogram": [], "reasons": [], "labels": [], "pieces": [], "content_digest": "",
    "rejects_file": None, "attempt": "a0",
}  # fmt: skip
"""The fields of a record without rows; only its split is missing."""
SHARD = b"no Parquet: whoever opens it has not read the ledger"


def planned(values: Mapping[str, Any]) -> tuple[Dataset, Plan]:
    """Makes the dataset of a config, claimed and with its plan."""
    parsed = parse_config(values)
    model = checkpoint.resolve(parsed.model.name)
    identity = Identity.of(parsed, model)
    made = make_plan(parsed, model, identity.dataset_digest)
    dataset = Dataset.of(parsed)
    dataset.claim(identity, parsed)
    dataset.freeze(made.to_bytes())
    return dataset, made


def record(split_id: str, **figures: Any) -> ShardRecord:
    """Makes the record of a shard from `SHARD`; fields that are not given are zero or empty."""
    return ShardRecord(split_id=split_id, **(NOTHING | {"file_bytes": len(SHARD)} | figures))


def piece(file: str, rows: int, error: str | None = None) -> dict[str, Any]:
    """Makes the record of a piece of the source `docs`."""
    return {
        "source": "docs", "file": file, "start": 0, "stop": rows, "rows": rows, "rejects": 0, "error": error,
    }  # fmt: skip


def write(dataset: Dataset, *records: ShardRecord, attempt: str = "a0") -> None:
    """Writes the shards of these records, and the ledger of an attempt."""
    for each in records:
        dataset.storage.put(dataset.layout.shard(each.split_id), SHARD)
    dataset.storage.put(dataset.layout.ledger_file(attempt, 0), parquet_bytes(to_table(list(records))))


def attempted(dataset: Dataset, attempt: str = "a0", **more: Any) -> None:
    """Writes the file that an attempt leaves of itself."""
    content = {"attempt": attempt, "started": "2026-11-25T12:00:00+00:00", "host": "here", "pid": 7} | more
    dataset.storage.put(dataset.layout.attempt(attempt), json.dumps(content).encode())


def complete(dataset: Dataset, *records: ShardRecord) -> None:
    """Writes the shards, the manifest and the mark of a complete dataset."""
    write(dataset, *records)
    dataset.storage.put(dataset.layout.manifest, parquet_bytes(to_table(list(records))))
    dataset.storage.put(dataset.layout.success, b"")
