"""Refuses to commit shards that do not belong to the plan, and splits without shard or failure."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.record import Failure
from pipeline.errors import OtherDatasetError, StoppedError
from pipeline.plan.plan import Plan
from pipeline.storage import ObjectInfo


def refuse_foreign(plan: Plan, shards: Mapping[str, object], where: str) -> None:
    """Refuses shards of splits that the plan does not have.

    Raises:
        OtherDatasetError: there are such shards.
    """
    there = pa.array(list(shards), pa.string())
    foreign = pc.filter(there, pc.invert(pc.is_in(there, plan.split_ids))).sort().to_pylist()
    if foreign:
        names = ", ".join(foreign[:3])
        raise OtherDatasetError("holds shards that the plan does not know", where, names, "move them away")


def refuse_unexplained(plan: Plan, shards: Mapping[str, object], failures: Sequence[Failure]) -> None:
    """Refuses splits that have neither a shard nor a failure.

    Raises:
        StoppedError: there are such splits.
    """
    lost = plan.pending([*shards, *(failure.split_id for failure in failures)]).split_ids.to_pylist()
    if lost:
        raise StoppedError(
            f"{len(lost)} splits have neither shard nor failure", got=", ".join(lost[:3]), hint="run again"
        )


def refuse_unfit(dataset: Dataset, plan: Plan, records: pa.Table, shards: Mapping[str, ObjectInfo]) -> None:
    """Refuses shards with other digests or columns than the plan's.

    A worker of an earlier dataset at this path may have written late, under a name of this dataset.

    Raises:
        OtherDatasetError: there are such shards.
    """
    identity = dataset.identity()
    if identity is None or not records.num_rows:
        return
    for name, right in (
        ("dataset_digest", plan.dataset_digest),
        ("vector_digest", identity.vector_digest),
        ("columns_digest", schema.columns_digest(identity.shard_schema(plan.columns))),
    ):
        alike = pc.is_in(records.column(name), pa.array(["", right], pa.string()))
        unfit = records.filter(pc.invert(alike)).column("split_id").to_pylist()
        if name == "columns_digest":  # another version of Arrow may write types differently
            wanted = identity.shard_schema(plan.columns)
            unfit = [split for split in unfit if not dataset.columns(shards[split]).equals(wanted)]
        if unfit:
            names = ", ".join(dataset.layout.name(dataset.layout.shard(split)) for split in unfit[:3])
            raise OtherDatasetError(
                f"holds {len(unfit)} shards of another {name.replace('_', ' ')} than the plan's",
                dataset.layout.root,
                names,
                hint="remove them and run again: they are made again",
            )
