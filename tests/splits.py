"""Takes a split through the stages without Ray."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.config.load import parse_config
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed.encode import Encode
from pipeline.embed.job import Job
from pipeline.embed.read import read_scan
from pipeline.embed.row import from_row
from pipeline.embed.write import write_row
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Split
from pipeline.plan.scan_row import feed_row


def scan_row(scan: Sequence[Split]) -> pa.Table:
    """Makes the row with which a scan enters the flow."""
    return pa.Table.from_pylist([feed_row(scan)])


def first_split(values: dict[str, Any]) -> tuple[pa.Table, Job]:
    parsed = parse_config(values)
    model = checkpoint.resolve(parsed.model.name)
    made = make_plan(parsed, model, "digest")
    row = scan_row(next(iter(made.scans())))
    identity, recipe = Identity.of(parsed, model), EmbeddingSpec.of(model, parsed.model)
    digests = identity.vector_digest, model.tokenizer_digest
    return row, Job(parsed, made.columns, recipe, identity.outputs, None, *digests, "attempt")


def first_read(row: pa.Table, told: Job) -> pa.Table:
    return next(read_scan(row, told))


def written(row: pa.Table, told: Job) -> ShardRecord | Failure:
    """Writes a split that was encoded, and returns the result."""
    result = from_row(write_row(row, told))
    assert isinstance(result, ShardRecord | Failure)
    return result


def embedded(scan: Sequence[Split], told: Job, encode: Encode) -> Iterator[ShardRecord | Failure]:
    """Takes the splits of a scan through all stages, and yields the results."""
    for row in read_scan(scan_row(scan), told):
        yield written(encode(row), told)
