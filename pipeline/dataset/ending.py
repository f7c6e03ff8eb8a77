"""How a run ended, or a dataset stands: the exit code, the reason, and what the summary says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.attempts import failed_files
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.summary import dataset_facts
from pipeline.errors import ExitCode, MissingError
from pipeline.plan.plan import Plan
from pipeline.storage import ObjectInfo


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its exit code, why in a line, the dataset's summary, where it and its report are."""

    code: ExitCode
    reason: str
    summary: Mapping[str, Any]
    output: str
    report: str | None = None


Report = Callable[[RunResult, pa.Table], bytes | None]
"""What tells a person of an ending and the records of all shards; None where there is nothing to be had."""


def no_report(_ending: RunResult, _records: pa.Table) -> None:
    """Nothing is told."""


def finished(dataset: Dataset) -> RunResult | None:
    """The ending of a dataset that is complete; None where it is not, or is being removed.

    A driver that slept while its dataset was removed and made anew may leave a `_SUCCESS` that means another:
    then the summary is missing, or is of another claim.
    """
    if not dataset.complete():
        return None
    try:
        ending = committed(dataset)
    except MissingError:
        return None
    held = dataset.claimed()
    claim = ending.summary.get("claim", held)  # none: of an older version of this program
    return ending if held is not None and claim == held else None


def committed(dataset: Dataset) -> RunResult:
    """The ending of a dataset that is complete."""
    layout, summary = dataset.layout, dataset.summary()
    report = layout.report if dataset.storage.exists(layout.report) else None
    return RunResult(ExitCode.DONE, "complete", summary, layout.root, report)


def mark(ending: RunResult) -> bytes:
    """What a report of a commit ends with, by which other runs know it."""
    return f"<!-- {ending.summary.get('manifest_digest', '')} -->\n".encode()


def standing(dataset: Dataset, plan: Plan) -> tuple[RunResult, pa.Table]:
    """How a dataset stands now, whoever is at work at it; and the records of the shards that are there.

    Failed files of one that is not complete are those of the plan, and of the last attempt that ended.
    """
    if dataset.complete():
        return committed(dataset), dataset.manifest()
    manifest = planned_records(dataset, plan, dataset.shards())
    failed = failed_files(plan, manifest, dataset.attempts())
    facts = dataset_facts(dataset, plan, manifest, failed)
    reason = f"{manifest.num_rows} of {len(plan.split_ids)} splits are done"
    summary = {"complete": False, "reason": reason, **facts, "run": {}}
    return RunResult(ExitCode.RETRYABLE, reason, summary, dataset.layout.root), manifest


def planned_records(dataset: Dataset, plan: Plan, shards: Mapping[str, ObjectInfo]) -> pa.Table:
    """The records of the shards that are there, in the order of the plan."""
    records = dataset.records(shards)
    return records.take(pc.sort_indices(pc.index_in(records.column("split_id"), plan.split_ids)))
