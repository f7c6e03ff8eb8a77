"""The end of a run: every row accounted for, then manifest, summary, report, _SUCCESS, in this order.

Only a run that may commit writes them, but for the report. What is there and says the same is adopted, never
written again: so drivers that commit at the same time end in the files of one of them, and nothing changes
after `_SUCCESS`. A driver whose dataset was removed meanwhile does not commit.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import parsing, schema, telemetry
from pipeline.config.sections import Quality
from pipeline.dataset import writer
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.reconcile import failed_pieces, reconcile
from pipeline.dataset.record import UNKNOWN_LATER, Failure, parquet_bytes, read_records
from pipeline.dataset.summary import COUNTED, dataset_facts
from pipeline.errors import (
    DamagedError,
    ExitCode,
    MissingError,
    OtherDatasetError,
    ReplacedError,
    StoppedError,
    StorageError,
)
from pipeline.plan.plan import Plan, Split
from pipeline.storage import ObjectInfo

TRIES = 10
SETTLED = (
    "dataset_digest", "claim", "manifest_digest", "splits", "shards", "failed_files", "documents",
    *COUNTED,
)  # fmt: skip
"""What summaries of one manifest agree on, whoever writes them."""
WRITE_THREADS = 16
WORST_FIRST = (ExitCode.CONFIG, ExitCode.OTHER_DATASET, ExitCode.RETRYABLE, ExitCode.BUG, ExitCode.INCOMPLETE)
"""Which code a run with several kinds of failures ends in: what must be mended before a retry is worth it."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: its exit code, why in a line, the dataset's summary, where it and its report are."""

    code: ExitCode
    reason: str
    summary: Mapping[str, Any]
    output: str
    report: str | None = None


Report = Callable[[Ending, pa.Table], bytes | None]
"""What tells a person of an ending and the records of all shards; None where there is nothing to be had."""


def no_report(_ending: Ending, _records: pa.Table) -> None:
    """Nothing is told."""


@dataclass(frozen=True)
class _Case:
    """What a commit is about; `claim`: the one that the shards were made under."""

    dataset: Dataset
    plan: Plan
    failures: Sequence[Failure]
    quality: Quality
    run: Mapping[str, Any]
    report: Report
    claim: str


def commit(
    dataset: Dataset,
    plan: Plan,
    failures: Iterable[Failure],
    quality: Quality,
    run: Mapping[str, Any],
    report: Report = no_report,
    shards: Mapping[str, ObjectInfo] | None = None,
    claim: str | None = None,
) -> Ending:
    """Reconcile what the dataset holds; and, when nothing speaks against it, commit.

    Args:
        failures: of this run's splits; one whose shard a rival made does not count.
        run: what the summary says of this run.
        report: what it makes is written in any case.
        shards: all of them, if they were listed and none was missing; else they are listed now.
        claim: what `Dataset.held` said before shards were listed; it is asked now when not given.

    Raises:
        IncompleteError: rows are unaccounted for.
        OtherDatasetError: there are shards that the plan does not know, or with other columns than its own.
        StoppedError: rivals kept overtaking us, or the dataset was removed.
    """
    claim = dataset.held(plan.dataset_digest, claim)
    case = _Case(dataset, plan, list(failures), quality, run, report, claim)
    for _ in range(TRIES):
        if ending := finished(dataset):
            return ending
        try:
            if ending := _commit(case, shards):
                return ending
        except ReplacedError:
            telemetry.event("overtaken", dataset=dataset.layout.root)
    raise StoppedError("another run keeps changing the dataset", dataset.layout.root, hint="run again")


def finished(dataset: Dataset) -> Ending | None:
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


def committed(dataset: Dataset) -> Ending:
    """The ending of a dataset that is complete."""
    layout, storage = dataset.layout, dataset.storage
    summary = parsing.json_object(storage.read(layout.summary), layout.summary)
    report = layout.report if storage.exists(layout.report) else None
    return Ending(ExitCode.DONE, "complete", summary, layout.root, report)


def mark(ending: Ending) -> bytes:
    """What a report of a commit ends with, by which other runs know it."""
    return f"<!-- {ending.summary.get('manifest_digest', '')} -->\n".encode()


def standing(dataset: Dataset, plan: Plan) -> tuple[Ending, pa.Table]:
    """How a dataset stands now, whoever is at work at it; and the records of the shards that are there.

    Failed files of one that is not complete are those of the plan, and of the last attempt that ended.
    """
    if dataset.complete():
        return committed(dataset), dataset.manifest()
    manifest = _manifest(dataset, plan, dataset.shards())
    told = [attempt["summary"] for attempt in dataset.attempts() if "summary" in attempt]
    failed = plan.failed_files | failed_pieces(manifest.column("pieces"))
    failed |= told[-1]["failed_files"] if told else {}
    facts = dataset_facts(dataset, plan, manifest, failed)
    reason = f"{manifest.num_rows} of {len(plan.split_ids)} splits are done"
    summary = {"complete": False, "reason": reason, **facts, "run": {}}
    return Ending(ExitCode.RETRYABLE, reason, summary, dataset.layout.root), manifest


def _commit(case: _Case, shards: Mapping[str, ObjectInfo] | None) -> Ending | None:
    """One try; None where shards have come by it, so that all must be looked at again."""
    dataset, plan = case.dataset, case.plan
    # Before the manifest, which is written first: who sees a page of a commit also sees the manifest.
    page = _There.at(dataset, dataset.layout.report)
    shards = dataset.shards() if shards is None else shards
    _refuse_foreign(plan, shards, dataset.layout.data)
    telemetry.event("committing", shards=len(shards), planned=len(plan.split_ids))
    records = _manifest(dataset, plan, shards)
    _refuse_unfit(dataset, plan, records, shards)
    failures = [failure for failure in case.failures if failure.split_id not in shards]
    _refuse_unexplained(plan, shards, failures)
    failed = plan.failed_files | failed_pieces(records.column("pieces"))
    failed |= {file: failure.message for failure in failures for file in failure.files}
    reconcile(plan.pieces, records.column("pieces"), set(shards))
    manifest = _There.at(dataset, dataset.layout.manifest)
    if adopted := _alike(manifest.data, records):
        records = read_records(manifest.data, dataset.layout.manifest)
    facts = dataset_facts(dataset, plan, records, failed)
    code, reason = _verdict(failures, failed, facts, case.quality)
    if code is ExitCode.DONE and failures:
        _write_failed(case, failures)
        return None
    data = manifest.data if adopted else parquet_bytes(records) if code is ExitCode.DONE else b""
    facts |= {"manifest_digest": sha256(data).hexdigest(), "claim": case.claim} if data else {}
    summary = {"complete": code is ExitCode.DONE, "reason": reason, **facts, "run": case.run}
    ending = Ending(code, reason, summary, dataset.layout.root)
    if code is ExitCode.DONE:
        return _finish(case, ending, records, manifest, data, page)
    return _told(case, ending, records, page)


@dataclass(frozen=True)
class _There:
    """A file as it was found: what its version says was there when its content was read, or before."""

    version: str | None
    data: bytes

    @classmethod
    def at(cls, dataset: Dataset, path: str) -> "_There":
        """What is at a path; None and nothing where there is none."""
        version = dataset.storage.version(path)
        try:
            return cls(version, dataset.storage.read(path) if version else b"")
        except MissingError:
            return cls(None, b"")


def _finish(
    case: _Case, ending: Ending, records: pa.Table, manifest: _There, data: bytes, page: _There
) -> Ending:
    """Write what a complete dataset has, in order; what is there already stays."""
    dataset, layout, storage = case.dataset, case.dataset.layout, case.dataset.storage
    made = case.report(ending, records)
    if rival := finished(dataset):  # the report took its time
        return rival
    dataset.held(case.plan.dataset_digest, case.claim)
    if data != manifest.data:
        storage.replace(layout.manifest, data, manifest.version)
    ending = replace(ending, summary=_summarized(dataset, ending.summary))
    ending = _reported(dataset, ending, made, page)
    dataset.held(case.plan.dataset_digest, case.claim)
    try:
        storage.put_if_absent(layout.success, b"")
    finally:  # also where its answer was lost
        _take_back_unless_held(case)
    sweep(dataset)
    return ending


def _take_back_unless_held(case: _Case) -> None:
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


def _summarized(dataset: Dataset, summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The summary that holds: the one that is there, where it says the same of the dataset; else ours."""
    path = dataset.layout.summary
    there = _There.at(dataset, path)
    try:
        said = parsing.json_value(there.data or b"{}")
    except ValueError:
        said = {}
    if isinstance(said, dict) and all(said.get(name) == summary[name] for name in SETTLED):
        return said
    data = (json.dumps(summary, indent=2) + "\n").encode()
    dataset.storage.replace(path, data, there.version)
    return summary


def _told(case: _Case, ending: Ending, records: pa.Table, page: _There) -> Ending:
    """The ending of a run that may not commit, with its report."""
    dataset = case.dataset
    made = case.report(ending, records)
    if not finished(dataset):
        ending = _reported(dataset, ending, made, page)
    if rival := finished(dataset):  # whose limits are wider: our page may lie over its own
        page = _There.at(dataset, dataset.layout.report)
        return _reported(dataset, rival, case.report(rival, dataset.manifest()), page)
    return ending


def _reported(dataset: Dataset, ending: Ending, made: bytes | None, there: _There) -> Ending:
    """The ending, with its report where that could be written; the page of a commit of these shards stays.

    Raises:
        ReplacedError: a rival has written one meanwhile.
    """
    path, digest = dataset.layout.report, ending.summary.get("manifest_digest", "")
    if digest and mark(ending) in there.data:
        return replace(ending, report=path)
    if made is None:
        return ending
    try:
        dataset.storage.replace(path, made, there.version)
    except ReplacedError:
        raise
    except StorageError as error:  # a run is not to fail for want of its report
        telemetry.event("report not written", reason=str(error))
        return ending
    return replace(ending, report=path)


def _write_failed(case: _Case, failures: Sequence[Failure]) -> None:
    """Give each split that failed a shard without rows, whose record says why.

    So a dataset that is complete without them is whole all the same: a worker that has such a split still in
    hand finds its name taken, and can add nothing after `_SUCCESS`.
    """
    dataset, plan = case.dataset, case.plan
    identity = dataset.identity()
    if identity is None:
        raise StoppedError("was removed while a run was at work at it", dataset.layout.root, hint="run again")
    messages = {failure.split_id: failure.message for failure in failures}
    vector, dimension = str(identity.vector_fields["model.vector"]), identity.dimension
    rows = schema.rows_schema(plan.columns, "chunk" in identity.shard_schema(plan.columns).names)
    figures = {
        "attempt": str(case.run.get("attempt", "")),
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
        nothing = np.zeros((0, dimension), np.float32)
        contents = writer.Contents(
            split_id, rows.empty_table(), nothing, schema.REJECTS.empty_table(), told, vector
        )
        writer.write(dataset, contents, figures)

    with ThreadPoolExecutor(WRITE_THREADS) as pool:
        list(pool.map(write, (split for split in plan.splits() if split[0] in messages)))


def _refuse_unfit(dataset: Dataset, plan: Plan, records: pa.Table, shards: Mapping[str, ObjectInfo]) -> None:
    """A worker of a dataset that stood here before may have written late, under a name that is ours."""
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
        if name == "columns_digest":  # another version of Arrow may write types otherwise
            wanted = identity.shard_schema(plan.columns)
            unfit = [split for split in unfit if not dataset.columns(shards[split]).equals(wanted)]
        if unfit:
            names = ", ".join(dataset.layout.name(dataset.layout.shard(split)) for split in unfit[:3])
            raise OtherDatasetError(
                f"holds {len(unfit)} shards of another {name.replace('_', ' ')} than the plan's",
                dataset.layout.root,
                names,
                hint="remove them and run again: they are made anew",
            )


def _alike(data: bytes, records: pa.Table) -> bool:
    """Whether a manifest that is there says the same as these records, but for what no footer knows."""
    unknown = list(UNKNOWN_LATER)
    try:
        found = read_records(data, "manifest").drop_columns(unknown)
    except DamagedError:  # or there is none
        return False
    return bool(found.equals(records.drop_columns(unknown)))


def _manifest(dataset: Dataset, plan: Plan, shards: Mapping[str, ObjectInfo]) -> pa.Table:
    """The records of the shards that are there, in the order of the plan."""
    records = dataset.records(shards)
    return records.take(pc.sort_indices(pc.index_in(records.column("split_id"), plan.split_ids)))


def sweep(dataset: Dataset) -> None:
    """Nothing is written here any more: open uploads never will be a shard, and matches have been used."""
    layout, storage = dataset.layout, dataset.storage
    try:
        swept = storage.sweep(layout.root, layout.is_ours)
        for info in storage.folder(layout.all_matches).values():
            storage.remove(info.path)
        storage.remove_empty_folder(layout.all_matches)
    except StorageError as error:  # the dataset is complete all the same
        telemetry.event("leftovers not removed", reason=str(error))
    else:
        telemetry.event("complete", unfinished_uploads_removed=swept)


def _refuse_foreign(plan: Plan, shards: Mapping[str, object], where: str) -> None:
    there = pa.array(list(shards), pa.string())
    foreign = pc.filter(there, pc.invert(pc.is_in(there, plan.split_ids))).sort().to_pylist()
    if foreign:
        names = ", ".join(foreign[:3])
        raise OtherDatasetError("holds shards that the plan does not know", where, names, "move them away")


def _refuse_unexplained(plan: Plan, shards: Mapping[str, object], failures: Sequence[Failure]) -> None:
    lost = plan.pending([*shards, *(failure.split_id for failure in failures)]).split_ids.to_pylist()
    if lost:
        raise StoppedError(
            f"{len(lost)} splits have neither shard nor failure", got=", ".join(lost[:3]), hint="run again"
        )


def _verdict(
    failures: Sequence[Failure], failed: Mapping[str, str], totals: Mapping[str, Any], quality: Quality
) -> tuple[ExitCode, str]:
    codes = {ExitCode(failure.exit_code) for failure in failures}
    if failed:
        codes.add(ExitCode.INCOMPLETE)
    if quality.allow_failed_files:
        failed = {file: each.message for each in failures if not each.is_of_files for file in each.files}
    if codes - {ExitCode.INCOMPLETE} or failed:
        code = next(code for code in WORST_FIRST if code in codes)
        if code is not ExitCode.INCOMPLETE:
            reasons = [failure.message for failure in failures if failure.exit_code == code]
            return code, f"{len(reasons)} splits could not be done: {reasons[0].splitlines()[0]}"
        name, message = next(iter(failed.items()))
        more = f" (and {len(failed) - 1} more files)" if len(failed) > 1 else ""
        return code, f"{len(failed)} of the source's files failed: {name}: {message.splitlines()[0]}{more}"
    documents = totals["documents"]
    if totals["rejects"] > quality.max_reject_fraction * documents:
        return ExitCode.INCOMPLETE, (
            f"{totals['rejects']} of {documents} rows were rejected, more than quality.max_reject_fraction "
            f"{quality.max_reject_fraction:g}; rejects/ has the reason of each"
        )
    return ExitCode.DONE, "complete"
