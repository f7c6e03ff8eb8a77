"""Writes shards without rows for splits that could not be done."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline import schema
from pipeline.dataset import writer
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.record import Failure
from pipeline.errors import StoppedError
from pipeline.model import outputs
from pipeline.plan.plan import Plan, Split

WRITE_THREADS = 16


def write_failed(dataset: Dataset, plan: Plan, failures: Sequence[Failure], attempt: str) -> None:
    """Gives each split that failed a shard without rows, whose record says why.

    So a dataset that is complete without these splits has a shard for every split: a worker that still
    processes such a split finds its name taken, and can add nothing after `_SUCCESS`.
    """
    identity = dataset.identity()
    if identity is None:
        raise StoppedError("was removed while a run was at work at it", dataset.layout.root, hint="run again")
    messages = {failure.split_id: failure.message for failure in failures}
    spec = identity.outputs
    rows = schema.rows_schema(plan.columns, "chunk" in identity.shard_schema(plan.columns).names)
    figures = {
        "attempt": attempt,
        "dataset_digest": plan.dataset_digest,
        "vector_digest": identity.vector_digest,
    }

    def write(split: Split) -> None:
        split_id, pieces = split
        told = [
            {
                "source": piece.source, "file": piece.file, "start": piece.start, "stop": piece.stop,
                "error": messages[split_id],
            }
            for piece in pieces
        ]  # fmt: skip
        rejects = schema.REJECTS.empty_table()
        contents = writer.Contents(
            split_id, rows.empty_table(), outputs.empty(spec), rejects, told, spec, field_ids=plan.field_ids
        )
        writer.write(dataset, contents, figures)

    with ThreadPoolExecutor(WRITE_THREADS) as pool:
        list(pool.map(write, (split for split in plan.splits() if split[0] in messages)))
