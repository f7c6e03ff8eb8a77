"""Runs a job's stages one after the other in this process instead of on Ray, in one second instead of ten."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.config.location import Options
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed import on_ray
from pipeline.embed.encode import Encode
from pipeline.embed.job import Job
from pipeline.embed.unseen import settled
from pipeline.nightly import matching
from pipeline.nightly.base import Base
from pipeline.plan.plan import Plan
from tests.splits import embedded, scan_row


def staged(pending: Plan, job: Job) -> Iterator[ShardRecord | Failure]:
    """Embeds the pending splits."""
    encode = Encode(job)
    for scan in pending.scans():
        yield from embedded(scan, job, encode)


def use_no_ray(patch: pytest.MonkeyPatch) -> None:
    """Lets the driver run a job's stages here, as long as the patch lasts."""
    for name, ours in {"cluster": _nothing, "refuse_private_output": _nothing_refused, "run": _run,
                       "match": _match}.items():  # fmt: skip
        patch.setattr(on_ray, name, ours)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _nothing_refused(root: str, options: Options) -> None:
    """Refuses nothing: one machine sees all of its files."""


def _run(pending: Plan, job: Job, tell: Any = None) -> Iterator[ShardRecord | Failure]:
    yield from settled(pending, job, staged)


def _match(pending: Plan, job: Job, base: Base) -> int:
    """Does the same as `on_ray.match`, with groups in place of shuffles."""
    kind, buckets = base.document_type(), 3
    if kind is None:
        return 0
    shards = base.manifest.column("split_id").to_pylist()
    told: dict[str, Any] = {"kind": kind, "buckets": buckets}
    old = [matching.base_documents(pa.table({"shard": [shard]}), base, **told) for shard in shards]
    rows = [scan_row(scan) for scan in pending.scans()]
    new = [part for row in rows for part in matching.wanted_documents(row, job.config, job.columns, **told)]
    found = _each("bucket", pa.concat_tables([*old, *new]), matching.join)
    kept = _each("split_id", found, lambda split: matching.keep(split, job.config))
    return int(pc.sum(kept.column("documents")).as_py() or 0)


def _each(key: str, table: pa.Table, function: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Yields the results of a function for the rows of each value of a column."""
    values: Iterable[Any] = pc.unique(table.column(key)).drop_null()
    made = [function(table.filter(pc.equal(table.column(key), value))) for value in values]
    return pa.concat_tables(made) if made else pa.table({"documents": pa.array([], pa.int64())})
