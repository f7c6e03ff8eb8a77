"""The end of a run: every row accounted for, then manifest, summary, report, _SUCCESS, in this order.

Only a run that may commit writes them, but for the report. What is there and says the same is adopted, never
written again: so drivers that commit at the same time end in the files of one of them, and nothing changes
after `_SUCCESS`. A driver whose dataset was removed meanwhile does not commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import pyarrow as pa

from pipeline import telemetry
from pipeline.config.sections import Quality
from pipeline.dataset.commit_files import FoundFile, same_records, sweep, write_report, write_summary
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import Report, RunResult, finished, no_report, planned_records
from pipeline.dataset.failed_splits import write_failed
from pipeline.dataset.reconcile import failed_pieces, reconcile
from pipeline.dataset.record import Failure, parquet_bytes, read_records
from pipeline.dataset.summary import dataset_facts
from pipeline.dataset.unfit_shards import refuse_foreign, refuse_unexplained, refuse_unfit
from pipeline.dataset.verdict import verdict
from pipeline.errors import ExitCode, OtherDatasetError, ReplacedError, StoppedError
from pipeline.plan.plan import Plan
from pipeline.storage import ObjectInfo

TRIES = 10


@dataclass(frozen=True)
class CommitRequest:
    """What a commit is about.

    failures: of this run's splits; one whose shard a rival made does not count.
    run: what the summary says of this run.
    report: what it makes is written in any case.
    shards: all of them, if they were listed and none was missing; else they are listed by the commit.
    claim: what `Dataset.held` said before shards were listed; it is asked by the commit when not given.
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
    """Reconcile what the dataset holds; and, when nothing speaks against it, commit.

    Raises:
        IncompleteError: rows are unaccounted for.
        OtherDatasetError: there are shards that the plan does not know, or with other columns than its own.
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
    """One try; None where shards have come by it, so that all must be looked at again."""
    dataset, plan = case.dataset, case.plan
    # Before the manifest, which is written first: who sees a page of a commit also sees the manifest.
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
    """Write what a complete dataset has, in order; what is there already stays."""
    dataset, layout, storage = case.dataset, case.dataset.layout, case.dataset.storage
    made = case.report(ending, records)
    if rival := finished(dataset):  # the report took its time
        return rival
    dataset.held(case.plan.dataset_digest, case.claim)
    if data != manifest.data:
        storage.replace(layout.manifest, data, manifest.version)
    ending = replace(ending, summary=write_summary(dataset, ending.summary))
    ending = write_report(dataset, ending, made, page)
    dataset.held(case.plan.dataset_digest, case.claim)
    try:
        storage.put_if_absent(layout.success, b"")
    finally:  # also where its answer was lost
        _take_back_unless_held(case)
    sweep(dataset)
    return ending


def _take_back_unless_held(case: CommitRequest) -> None:
    """A prune that did not see `_SUCCESS` has said before that it removes: one of us sees the other.

    Raises:
        StoppedError, OtherDatasetError: the dataset is no longer ours.
    """
    dataset = case.dataset
    try:
        dataset.held(case.plan.dataset_digest, case.claim)
    except (StoppedError, OtherDatasetError):
        if not finished(dataset):  # else it is of who has made the dataset anew
            dataset.storage.remove(dataset.layout.success)
        raise


def _told(case: CommitRequest, ending: RunResult, records: pa.Table, page: FoundFile) -> RunResult:
    """The ending of a run that may not commit, with its report."""
    dataset = case.dataset
    made = case.report(ending, records)
    if not finished(dataset):
        ending = write_report(dataset, ending, made, page)
    if rival := finished(dataset):  # whose limits are wider: our page may lie over its own
        page = FoundFile.at(dataset, dataset.layout.report)
        return write_report(dataset, rival, case.report(rival, dataset.manifest()), page)
    return ending
