"""The end of a run: every row accounted for, then manifest, summary, report, _SUCCESS, in this order.

Only a run that may commit writes them, but for the report, and each only over what was there when the shards
were listed: a driver that was overtaken by a rival looks again, and never puts old news over newer.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import reuse, schema, telemetry
from pipeline.config import Quality
from pipeline.dataset import Dataset, parquet_bytes
from pipeline.errors import (
    ExitCode,
    IncompleteError,
    OtherDatasetError,
    ReplacedError,
    StoppedError,
    StorageError,
)
from pipeline.job import Failure
from pipeline.plan import Plan, source_files
from pipeline.storage import ObjectInfo

TRIES = 10
TOTALS = (
    "rows", "rejects", "transient", "tokens", "computed_tokens", "truncated", "text_bytes",
    "read_bytes", "file_bytes", "storage_retries",
)  # fmt: skip
CACHE = ("cache_hits", "cache_misses")
SECONDS = ("read_seconds", "tokenize_seconds", "encode_seconds", "idle_seconds", "write_seconds")
WORST_FIRST = (ExitCode.CONFIG, ExitCode.RETRYABLE, ExitCode.BUG, ExitCode.INCOMPLETE)
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


def commit(
    dataset: Dataset,
    plan: Plan,
    failures: Iterable[Failure],
    quality: Quality,
    run: Mapping[str, Any],
    report: Report = no_report,
    shards: Mapping[str, ObjectInfo] | None = None,
) -> Ending:
    """Reconcile what the dataset holds; and, when nothing speaks against it, commit.

    Args:
        failures: of this run's splits; one whose shard a rival made does not count.
        run: what the summary says of this run.
        report: what it makes is written in any case.
        shards: all of them, if they were listed and none was missing; else they are listed now.

    Raises:
        IncompleteError: rows are unaccounted for.
        OtherDatasetError: there are shards that the plan does not know.
        StoppedError: rivals kept overtaking us.
    """
    failures = list(failures)
    for _ in range(TRIES):
        if dataset.complete():
            return committed(dataset)
        try:
            return _commit(dataset, plan, failures, quality, run, report, shards)
        except ReplacedError:
            telemetry.event("overtaken", dataset=dataset.layout.root)
    raise StoppedError("another run keeps changing the dataset", dataset.layout.root, hint="run again")


def committed(dataset: Dataset) -> Ending:
    """The ending of a dataset that is complete."""
    layout, storage = dataset.layout, dataset.storage
    summary = json.loads(storage.read(layout.summary))
    report = layout.report if storage.exists(layout.report) else None
    return Ending(ExitCode.DONE, "complete", summary, layout.root, report)


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
    facts = _facts(dataset, plan, manifest, failed)
    reason = f"{manifest.num_rows} of {len(plan.split_ids)} splits are done"
    summary = {"complete": False, "reason": reason, **facts, "run": {}}
    return Ending(ExitCode.RETRYABLE, reason, summary, dataset.layout.root), manifest


def _commit(
    dataset: Dataset,
    plan: Plan,
    failures: Sequence[Failure],
    quality: Quality,
    run: Mapping[str, Any],
    report: Report,
    shards: Mapping[str, ObjectInfo] | None,
) -> Ending:
    layout, storage = dataset.layout, dataset.storage
    expected = {path: storage.version(path) for path in (layout.manifest, layout.summary, layout.report)}
    shards = dataset.shards() if shards is None else shards
    _refuse_foreign(plan, shards, layout.data)
    telemetry.event("committing", shards=len(shards), planned=len(plan.split_ids))
    manifest = _manifest(dataset, plan, shards)
    failures = [failure for failure in failures if failure.split_id not in shards]
    _refuse_unexplained(plan, shards, failures)
    failed = plan.failed_files | failed_pieces(manifest.column("pieces"))
    failed |= {file: failure.message for failure in failures for file in failure.files}
    reconcile(plan.pieces, manifest.column("pieces"), set(shards))
    facts = _facts(dataset, plan, manifest, failed)
    code, reason = _verdict(failures, failed, facts, quality)
    summary = {"complete": code is ExitCode.DONE, "reason": reason, **facts, "run": run}
    ending = Ending(code, reason, summary, layout.root)
    page = report(ending, manifest)
    if code is ExitCode.DONE:
        storage.replace(layout.manifest, parquet_bytes(manifest), expected[layout.manifest])
        data = (json.dumps(ending.summary, indent=2) + "\n").encode()
        storage.replace(layout.summary, data, expected[layout.summary])
        ending = _reported(dataset, ending, page, expected[layout.report])
        storage.put_if_absent(layout.success, b"")
        _sweep(dataset)
        return ending
    ending = _reported(dataset, ending, page, expected[layout.report])
    if dataset.complete():  # by a rival whose limits are wider: our page may lie over its own
        ending, manifest = standing(dataset, plan)
        return _reported(dataset, ending, report(ending, manifest), storage.version(layout.report))
    return ending


def _reported(dataset: Dataset, ending: Ending, page: bytes | None, expected: str | None) -> Ending:
    """The ending, with its report where that could be written.

    Raises:
        ReplacedError: a rival has written one meanwhile.
    """
    if page is None:
        return ending
    path = dataset.layout.report
    try:
        dataset.storage.replace(path, page, expected)
    except ReplacedError:
        raise
    except StorageError as error:  # a run is not to fail for want of its report
        telemetry.event("report not written", reason=str(error))
        return ending
    return replace(ending, report=path)


def _manifest(dataset: Dataset, plan: Plan, shards: Mapping[str, ObjectInfo]) -> pa.Table:
    """The records of the shards that are there, in the order of the plan."""
    records = dataset.records(shards)
    return records.take(pc.sort_indices(pc.index_in(records.column("split_id"), plan.split_ids)))


def _facts(dataset: Dataset, plan: Plan, manifest: pa.Table, failed: Mapping[str, str]) -> dict[str, Any]:
    """What summary.json holds of the dataset, whatever is thought of it."""
    return {
        "dataset_digest": plan.dataset_digest,
        "splits": len(plan.split_ids),
        "shards": manifest.num_rows,
        "files": len(plan.versions()),
        "planned_bytes": plan.stored_bytes,  # beside read_bytes, it tells how often storage was read
        **counts(manifest),
        **{name: schema.total(manifest, name) for name in SECONDS},
        "reject_reasons": reject_reasons(manifest),
        **_origins(dataset, manifest),
        "failed_files": failed,
    }


def _sweep(dataset: Dataset) -> None:
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


def failed_pieces(pieces: pa.ChunkedArray) -> dict[str, str]:
    """Files that could not be read for a shard that holds others of its split, with the reason."""
    found = schema.structs(pieces, schema.PIECE)
    found = found.filter(pc.is_valid(found.column("error")))
    return dict(zip(source_files(found).to_pylist(), found.column("error").to_pylist(), strict=True))


def reconcile(planned: pa.Table, pieces: pa.ChunkedArray, present: set[str]) -> None:
    """Check that every planned row of the present splits was embedded or rejected, and no other.

    Raises:
        IncompleteError: a file's rows do not add up; the first few are named.
    """
    if wrong := unaccounted(planned, pieces, present):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        got = "; ".join(f"{file}: {what}" for file, what in wrong[:3]) + more
        raise IncompleteError(
            "rows are unaccounted for",
            got=got,
            hint="`verify` names the shards, and docs/operations.md what to do with them",
        )


def unaccounted(planned: pa.Table, pieces: pa.ChunkedArray, present: set[str]) -> list[tuple[str, str]]:
    """Each file whose rows `reconcile` would not accept, with what does not add up."""
    failed = pa.array(list(failed_pieces(pieces)), pa.string())
    planned = planned.filter(pc.invert(pc.is_in(source_files(planned), failed)))
    done = schema.structs(pieces, schema.PIECE)
    is_there = pc.is_in(planned.column("split_id"), pa.array(list(present), pa.string()))
    # The bytes of a file can only tile it when none of its splits is missing.
    torn = planned.filter(pc.invert(is_there))
    wrong = _wrong_rows(planned.filter(is_there), done)
    return wrong + _wrong_bytes(planned, done, set(source_files(torn).to_pylist()))


def _wrong_rows(wanted: pa.Table, done: pa.Table) -> list[tuple[str, str]]:
    """Files cut by rows whose embedded and rejected rows are not the planned ones."""
    wanted = wanted.filter(pc.equal(wanted.column("unit"), "rows"))
    planned = schema.sum_by(source_files(wanted), pc.subtract(wanted.column("stop"), wanted.column("start")))
    found = schema.sum_by(source_files(done), pc.add(done.column("rows"), done.column("rejects")))
    return [
        (file, f"{rows} rows planned, {found.get(file, 0)} found")
        for file, rows in planned.items()
        if found.get(file, 0) != rows
    ]


def _wrong_bytes(planned: pa.Table, done: pa.Table, torn: set[str]) -> list[tuple[str, str]]:
    """Files cut by bytes whose consumed ranges do not tile [0, size)."""
    planned = planned.filter(pc.equal(planned.column("unit"), "bytes").fill_null(False))
    sizes = dict(zip(source_files(planned).to_pylist(), planned.column("size").to_pylist(), strict=True))
    reached = dict.fromkeys(sizes, 0)
    ranges = pa.table(
        {"file": source_files(done), "start": done.column("start"), "stop": done.column("stop")}
    )
    ranges = ranges.filter(pc.is_in(ranges.column("file"), pa.array(list(sizes), pa.string())))
    ranges = ranges.sort_by([("file", "ascending"), ("start", "ascending"), ("stop", "ascending")])
    for file, start, stop in zip(*(column.to_pylist() for column in ranges.columns), strict=True):
        # A gap or an overlap is never made good again: the end is then not reached.
        reached[file] = stop if reached[file] == start else -1
    return [
        (file, f"the lines read do not add up to its {size} bytes")
        for file, size in sizes.items()
        if reached[file] != size and file not in torn
    ]


def _origins(dataset: Dataset, manifest: pa.Table) -> dict[str, Any]:
    """Where rows came from: shards copied from the base, vectors reused, embedded; and what of it is gone."""
    ours = schema.made_by(manifest, dataset.attempt_names())
    reused, made = schema.total(ours, "reused"), schema.total(ours, "rows")
    origins = {"copied": schema.total(manifest, "rows") - made, "reused": reused, "embedded": made - reused}
    base = dataset.base()
    if base is None:
        return origins
    rate = schema.total(manifest, "encode_seconds") / max(schema.total(manifest, "computed_tokens"), 1)
    saved = rate * (schema.total(manifest, "tokens") - schema.total(ours, "computed_tokens"))
    before = reuse.rows_of(base, dataset.storage)
    gone = max(0, before - origins["copied"] - reused)
    return {"base": base, **origins, "gone": gone, "encode_seconds_saved": round(saved, 3)}


def counts(manifest: pa.Table) -> dict[str, int]:
    """What the summary says of all shards, timings aside."""
    sums = {name: int(schema.total(manifest, name)) for name in (*TOTALS, *CACHE)}
    return sums | {"documents": _documents(manifest)}


def reject_reasons(manifest: pa.Table) -> dict[str, int]:
    """Rejected rows of all shards by reason, the most frequent first."""
    found = schema.structs(manifest.column("reasons"), schema.REASON)
    sums = schema.sum_by(found.column("reason"), found.column("rows"))
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def _documents(manifest: pa.Table) -> int:
    """Rows of the source, embedded or rejected; with a row for each window the shards have more."""
    pieces = schema.structs(manifest.column("pieces"), schema.PIECE)
    return int(sum(schema.total(pieces, name) for name in ("rows", "rejects")))


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
    if codes - {ExitCode.INCOMPLETE} or (failed and not quality.allow_failed_files):
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
