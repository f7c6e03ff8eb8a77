"""Copies complete shards of a base inside storage if nothing in their split has changed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import telemetry
from pipeline.dataset.damage import NOT_COPIED, is_its_own, unless_damaged
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import ShardRecord
from pipeline.errors import ExistsError, StorageError
from pipeline.nightly.base import NO_COLUMNS, Base
from pipeline.plan.plan import Plan

NO_COPIES = "no shard is copied"
COPY_THREADS = 32


def copyable_shards(base: Base, identity: Identity, pending: Plan) -> list[dict[str, Any]]:
    """Returns the records of the shards that can be copied for pending splits; opens no shard."""
    return unless_damaged(NO_COPIES, base.path, lambda: _copyable(base, identity, pending)) or []


def _copyable(base: Base, identity: Identity, pending: Plan) -> list[dict[str, Any]]:
    manifest = base.manifest
    differing: list[str] = []
    if base.identity.dataset_digest != identity.dataset_digest:
        differing = identity.differences(base.identity)[:3]
    elif base.plan().columns != pending.columns:
        differing = ["the columns' types differ"]
    if differing:
        telemetry.event(NO_COPIES, base=base.path, reason="; ".join(differing))
        return []
    same = manifest.filter(pc.is_in(manifest.column("split_id"), pending.split_ids))
    return [record for record in same.to_pylist() if _is_final(record)]


def copy_shards(base: Base, dataset: Dataset, identity: Identity, pending: Plan) -> Iterator[ShardRecord]:
    """Copies the shards of unchanged splits inside storage; yields the record of each.

    Cost: four requests a shard, in threads; only the footers of the shards are read.
    """
    whole = copyable_shards(base, identity, pending)
    expected = identity.shard_schema(pending.columns) if whole else NO_COLUMNS
    with ThreadPoolExecutor(COPY_THREADS) as pool:
        for copied in pool.map(lambda record: _copy(base, dataset, record, expected), whole):
            if copied:
                yield copied


def _is_final(record: dict[str, Any]) -> bool:
    """Tells whether a second try can't improve a shard: it has no transient reject and no failed file."""
    return record["transient"] == 0 and not any(piece["error"] for piece in record["pieces"])


def _copy(base: Base, dataset: Dataset, record: dict[str, Any], expected: pa.Schema) -> ShardRecord | None:
    """Copies a shard, its reject file first; returns None if it is gone, or not as it should be."""
    store, old, new = dataset.storage, base.dataset.layout, dataset.layout
    split_id, rejects = record["split_id"], record["rejects_file"]
    where = f"{base.path}: shard {split_id}"
    checked = unless_damaged(NOT_COPIED, where, lambda: base.checked(record, expected))
    if checked is None:
        return None
    try:
        if rejects:
            store.copy_if_absent(old.rejects_file(rejects), new.rejects_file(rejects), new.root)
        store.copy_if_absent(old.shard(split_id), new.shard(split_id), new.root)
    except ExistsError:  # a rival embedded it; or another reject file has this name already
        shard = new.shard(split_id)
        return dataset.footer(store.info(shard)) if store.exists(shard) else None
    except StorageError as error:
        if not is_its_own(error, NOT_COPIED):
            raise
        # A prune removes it at this moment, or access is denied: then its split is embedded.
        telemetry.event(NOT_COPIED, base=where, reason=str(error))
        return None
    return checked
