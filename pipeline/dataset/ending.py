"""Describes how a run ended or how far a dataset is: exit code, reason and summary."""

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
    """The ending of a run: exit code, reason in one line, summary, and the paths of dataset and report."""

    code: ExitCode
    reason: str
    summary: Mapping[str, Any]
    output: str
    report: str | None = None


Report = Callable[[RunResult, pa.Table], bytes | None]
"""A function that makes the report of an ending and of the records of all shards; None if there is none."""


def no_report(_ending: RunResult, _records: pa.Table) -> None:
    """Makes no report."""


def finished(dataset: Dataset) -> RunResult | None:
    """Returns the ending of a complete dataset; None if it is not complete, or is being removed.

    A driver that slept while its dataset was removed and made again may leave a `_SUCCESS` for the old one:
    then the summary is missing, or has another claim.
    """
    if not dataset.complete():
        return None
    try:
        ending = committed(dataset)
    except MissingError:
        return None
    held = dataset.claimed()
    claim = ending.summary.get("claim", held)  # older versions of this program wrote none
    return ending if held is not None and claim == held else None


def committed(dataset: Dataset) -> RunResult:
    """Returns the ending of a dataset that is known to be complete."""
    layout, summary = dataset.layout, dataset.summary()
    report = layout.report if dataset.storage.exists(layout.report) else None
    return RunResult(ExitCode.DONE, "complete", summary, layout.root, report)


def mark(ending: RunResult) -> bytes:
    """Returns the last line of a commit's report, by which other runs recognize it."""
    return f"<!-- {ending.summary.get('manifest_digest', '')} -->\n".encode()


def standing(dataset: Dataset, plan: Plan) -> tuple[RunResult, pa.Table]:
    """Returns the present state of a dataset as an ending, and the records of its shards.

    The failed files of an incomplete dataset come from the plan, the shards, and the last ended attempt.
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
    """Returns the records of the existing shards, in the order of the plan."""
    records = dataset.records(shards)
    return records.take(pc.sort_indices(pc.index_in(records.column("split_id"), plan.split_ids)))
