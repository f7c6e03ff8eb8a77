"""Finds vectors for texts that moved: runs `matching` on Ray as two shuffles, by hash and by split."""

import math
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.embed.job import Job
from pipeline.embed.on_ray.cluster import cluster, stopped
from pipeline.embed.on_ray.feed import MAX_BLOCKS, feed, set_context
from pipeline.embed.on_ray.graph import stage_resources
from pipeline.nightly import matching
from pipeline.nightly.base import Base
from pipeline.plan.plan import Plan

SHUFFLE_BLOCK_BYTES = 128 << 20
MAX_PARTITIONS = 1000


def match(pending: Plan, job: Job, base: Base) -> int:
    """Finds the pending splits' documents in the base, in files of any name; returns their number.

    Raises:
        ResourceError: the cluster can't hold the job that the matches are for.
        StoppedError: Ray gave up.
    """
    kind = base.document_type()
    if kind is None:
        return 0
    buckets = math.ceil(sum(base.manifest.column("rows").to_pylist()) / matching.DOCUMENTS_PER_BUCKET)
    one: dict[str, Any] = {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "num_cpus": job.config.compute.cpus_per_reader,
    }
    with cluster():
        stage_resources(job)  # otherwise the shuffle might wait for ever, or serve a job that can't run
        set_context(SHUFFLE_BLOCK_BYTES)
        shards = [{"shard": shard} for shard in base.manifest.column("split_id").to_pylist()]
        old = ray.data.from_items(shards, override_num_blocks=min(len(shards), MAX_BLOCKS)).map_batches(
            matching.base_documents, fn_kwargs={"base": base, "kind": kind, "buckets": buckets}, **one
        )
        wanted = {"config": job.config, "columns": job.columns, "kind": kind, "buckets": buckets}
        new = feed(pending, SHUFFLE_BLOCK_BYTES).map_batches(
            matching.wanted_documents, fn_kwargs=wanted, **one
        )
        partitions = {"num_partitions": max(2, min(buckets, MAX_PARTITIONS))}
        one_group = {"batch_format": "pyarrow", "num_cpus": job.config.compute.cpus_per_reader}
        found = old.union(new).groupby("bucket", **partitions).map_groups(matching.join, **one_group)
        kept = found.groupby("split_id", **partitions).map_groups(
            matching.keep, fn_kwargs={"config": job.config}, **one_group
        )
        try:
            return int(kept.sum("documents") or 0)
        except (RayError, RuntimeError) as error:
            raise stopped(error) from error
