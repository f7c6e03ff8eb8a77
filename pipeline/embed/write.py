"""Runs a write task: writes a split's shard."""

import functools

import pyarrow as pa

from pipeline.config.source import shard_column
from pipeline.dataset import writer
from pipeline.dataset.record import ShardRecord
from pipeline.embed.job import Job
from pipeline.embed.row import run_on_row
from pipeline.embed.split import EncodedSplit
from pipeline.telemetry.liveness import Heartbeat


def write_row(row: pa.Table, job: Job, sentry: Heartbeat | None = None) -> pa.Table:
    """Writes the split that a row holds; returns a row with its record."""
    return run_on_row("write", row, functools.partial(write_split, job=job), sentry)


def write_split(split: EncodedSplit, job: Job) -> ShardRecord:
    """Writes a split's shard."""
    return writer.write(job.dataset(), _contents(split, job), {**split.figures, **job.origin()})


def _contents(split: EncodedSplit, job: Job) -> writer.Contents:
    id_column = job.config.source[split.pieces[0]["source"]].id_column
    return writer.Contents(
        split_id=split.split_id,
        rows=split.rows.table,
        outputs=split.outputs,
        rejects=split.rejects.table,
        pieces=split.pieces,
        spec=job.outputs,
        too_large=split.too_large,
        reused=split.reused.table if split.reused else None,
        order=split.order,
        id_column=id_column and shard_column(id_column),
        field_ids=job.field_ids,
    )
