"""Ends a run: accounts for every row, then writes manifest, summary, report and _SUCCESS, in this order.

Only a run that may commit writes them; the report is always written. An existing file that says the same is
adopted and never written again. So drivers that commit at the same time end up with the files of one of them,
and nothing changes after `_SUCCESS`. A driver whose dataset was removed meanwhile does not commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import pyarrow as pa

from pipeline import telemetry
from pipeline.config.sections import Quality
from pipeline.dataset.commit_files import FoundFile, same_records, sweep, write_report, write_summary
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import Report, RunResult, finished, no_report, planned_records
from pipeline.dataset.failed_splits import write_failed
from pipeline.dataset.identifiers import count_ids, id_columns
from pipeline.dataset.reconcile import failed_pieces, reconcile
from pipeline.dataset.record import Failure, parquet_bytes, read_records
from pipeline.dataset.summary import dataset_facts
from pipeline.dataset.unfit_shards import refuse_foreign, refuse_unexplained, refuse_unfit
from pipeline.dataset.verdict import verdict, verdict_on_ids
from pipeline.errors import ExitCode, OtherDatasetError, ReplacedError, StoppedError
from pipeline.plan.plan import Plan
from pipeline.storage import ObjectInfo

TRIES = 10


@dataclass(frozen=True)
class CommitRequest:
    """The input of a commit.

    failures: the failures of this run's splits; one whose shard a rival made does not count.
    run: the part of the summary that describes this run.
    report: makes the report, which is written even if the run may not commit.
    shards: all shards, if they were listed and none was missing; otherwise the commit lists them.
    claim: the result of `Dataset.held` before the shards were listed; if None, the commit asks for it.
    """

    dataset: Dataset
    plan: Plan
    failures: Sequence[Failure]
    quality: Quality
    run: Mapping[str, Any]
    report: Report = no_report
    shards: Mapping[str, ObjectInfo] | None = None
    claim: str | None = None


def commit(request: CommitRequest) -> RunResult:
    """Reconciles what the dataset holds, and commits it if the verdict allows.

    Raises:
        IncompleteError: rows are unaccounted for.
        OtherDatasetError: there are shards that the plan does not know, or whose columns differ from its own.
        StoppedError: rivals kept overtaking us, or the dataset was removed.
    """
    dataset = request.dataset
    case = replace(request, claim=dataset.held(request.plan.dataset_digest, request.claim))
    for _ in range(TRIES):
        if ending := finished(dataset):
            return ending
        try:
            if ending := _commit(case):
                return ending
        except ReplacedError:
            telemetry.event("overtaken", dataset=dataset.layout.root)
    raise StoppedError("another run keeps changing the dataset", dataset.layout.root, hint="run again")


def _commit(case: CommitRequest) -> RunResult | None:
    """Tries to commit once; returns None if the try added shards, so that all must be checked again."""
    dataset, plan = case.dataset, case.plan
    # Read before the manifest, which is written first: if we see the page of a commit, we see its manifest.
    page = FoundFile.at(dataset, dataset.layout.report)
    shards = dataset.shards() if case.shards is None else case.shards
    refuse_foreign(plan, shards, dataset.layout.data)
    telemetry.event("committing", shards=len(shards), planned=len(plan.split_ids))
    records = planned_records(dataset, plan, shards)
    refuse_unfit(dataset, plan, records, shards)
    failures = [failure for failure in case.failures if failure.split_id not in shards]
    refuse_unexplained(plan, shards, failures)
    failed = plan.failed_files | failed_pieces(records.column("pieces"))
    failed |= {file: failure.message for failure in failures for file in failure.files}
    reconcile(plan.pieces, records.column("pieces"), set(shards))
    manifest = FoundFile.at(dataset, dataset.layout.manifest)
    if adopted := same_records(manifest.data, records):
        records = read_records(manifest.data, dataset.layout.manifest)
    facts = dataset_facts(dataset, plan, records, failed)
    code, reason = verdict(failures, failed, facts, case.quality)
    if code is ExitCode.DONE and case.quality.unique_ids:
        columns = id_columns(dataset.claim_file().identity().dataset_fields)
        counts = count_ids(dataset, plan, list(shards), columns)
        facts |= asdict(counts)
        code, reason = verdict_on_ids(counts)
    if code is ExitCode.DONE and failures:
        write_failed(dataset, plan, failures, str(case.run.get("attempt", "")))
        return None
    data = manifest.data if adopted else parquet_bytes(records) if code is ExitCode.DONE else b""
    facts |= {"manifest_digest": sha256(data).hexdigest(), "claim": case.claim} if data else {}
    summary = {"complete": code is ExitCode.DONE, "reason": reason, **facts, "run": case.run}
    ending = RunResult(code, reason, summary, dataset.layout.root)
    if code is ExitCode.DONE:
        return _finish(case, ending, records, manifest, data, page)
    return _told(case, ending, records, page)


def _finish(
    case: CommitRequest,
    ending: RunResult,
    records: pa.Table,
    manifest: FoundFile,
    data: bytes,
    page: FoundFile,
) -> RunResult:
    """Writes the last files of a complete dataset, in order; files that exist already stay."""
    dataset, layout, storage = case.dataset, case.dataset.layout, case.dataset.storage
    made = case.report(ending, records)
    if rival := finished(dataset):  # making the report took time
        return rival
    dataset.held(case.plan.dataset_digest, case.claim)
    if data != manifest.data:
        storage.replace(layout.manifest, data, manifest.version)
    ending = replace(ending, summary=write_summary(dataset, ending.summary))
    ending = write_report(dataset, ending, made, page)
    dataset.held(case.plan.dataset_digest, case.claim)
    try:
        storage.put_if_absent(layout.success, b"")
    finally:  # also if its answer was lost
        _take_back_unless_held(case)
    sweep(dataset)
    return ending


def _take_back_unless_held(case: CommitRequest) -> None:
    """Removes our `_SUCCESS` if the dataset is no longer ours.

    A prune that did not see `_SUCCESS` has marked the removal before: so either it or we notice the other.

    Raises:
        StoppedError, OtherDatasetError: the dataset is no longer ours.
    """
    dataset = case.dataset
    try:
        dataset.held(case.plan.dataset_digest, case.claim)
    except (StoppedError, OtherDatasetError):
        if not finished(dataset):  # else it belongs to the run that made the dataset again
            dataset.storage.remove(dataset.layout.success)
        raise


def _told(case: CommitRequest, ending: RunResult, records: pa.Table, page: FoundFile) -> RunResult:
    """Writes the report of a run that may not commit, and returns the ending."""
    dataset = case.dataset
    made = case.report(ending, records)
    if not finished(dataset):
        ending = write_report(dataset, ending, made, page)
    if rival := finished(dataset):  # its limits are wider; our page may have replaced its own
        page = FoundFile.at(dataset, dataset.layout.report)
        return write_report(dataset, rival, case.report(rival, dataset.manifest()), page)
    return ending
