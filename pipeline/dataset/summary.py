"""Sums up all shard records of a dataset for summary.json."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline import schema
from pipeline.dataset.damage import rows_of
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.record import Sum, summed
from pipeline.plan.plan import Plan

COUNTED = tuple(summed(Sum.AMOUNT, Sum.CACHE))
"""The fields of a record that are summed and depend on the shards alone, without timings."""


def dataset_facts(
    dataset: Dataset, plan: Plan, manifest: pa.Table, failed: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the facts about the dataset in summary.json, which do not depend on the verdict."""
    return {
        "dataset_digest": plan.dataset_digest,
        "splits": len(plan.split_ids),
        "shards": manifest.num_rows,
        "files": len(plan.versions()),
        "empty_files": plan.empty_files,
        "passed_over": plan.passed_over,
        "snapshots": plan.snapshots,
        "planned_bytes": plan.stored_bytes,  # compared with read_bytes, it shows how often storage was read
        **counts(manifest),
        **{name: schema.total(manifest, name) for name in summed(Sum.SECONDS)},
        "reject_reasons": reject_reasons(manifest),
        "labels": labels(manifest),
        **_origins(dataset, manifest),
        "failed_files": failed,
    }


def _origins(dataset: Dataset, manifest: pa.Table) -> dict[str, Any]:
    """Counts rows by origin: in copied shards, with reused vectors, embedded; and the base's lost rows."""
    ours = schema.made_by(manifest, dataset.attempt_names())
    reused, made = schema.total(ours, "reused"), schema.total(ours, "rows")
    origins = {"copied": schema.total(manifest, "rows") - made, "reused": reused, "embedded": made - reused}
    base = dataset.base()
    if base is None:
        return origins
    rate = schema.total(manifest, "encode_seconds") / max(schema.total(manifest, "computed_tokens"), 1)
    saved = rate * (schema.total(manifest, "tokens") - schema.total(ours, "computed_tokens"))
    before = rows_of(base, dataset.storage)
    gone = max(0, before - origins["copied"] - reused)
    return {"base": base, **origins, "gone": gone, "encode_seconds_saved": round(saved, 3)}


def counts(manifest: pa.Table) -> dict[str, int]:
    """Returns the summary's sums over all shards, without timings."""
    sums = {name: int(schema.total(manifest, name)) for name in COUNTED}
    return sums | {"documents": _documents(manifest)}


def reject_reasons(manifest: pa.Table) -> dict[str, int]:
    """Counts the rejected rows of all shards by reason, the most frequent first."""
    found = schema.structs(manifest.column("reasons"), schema.REASON)
    sums = schema.sum_by(found.column("reason"), found.column("rows"))
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def labels(manifest: pa.Table) -> dict[str, dict[str, int]]:
    """Counts the rows of all shards by output and label, the most frequent label first."""
    found = schema.structs(manifest.column("labels"), schema.LABEL)
    counted: dict[str, dict[str, int]] = {}
    if not found.num_rows:
        return counted
    sums = found.group_by(["output", "label"]).aggregate([("rows", "sum")])
    order = sums.sort_by([("output", "ascending"), ("rows_sum", "descending"), ("label", "ascending")])
    for row in order.to_pylist():
        counted.setdefault(row["output"], {})[row["label"]] = row["rows_sum"]
    return counted


def _documents(manifest: pa.Table) -> int:
    """Counts the rows of the source, embedded or rejected; shards with a row for each window have more."""
    pieces = schema.structs(manifest.column("pieces"), schema.PIECE)
    return int(sum(schema.total(pieces, name) for name in ("rows", "rejects")))
