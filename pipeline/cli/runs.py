"""Commands that make a dataset, or look at one through its config."""

import json
import sys
from argparse import Namespace
from typing import Any

import pyarrow.compute as pc

from pipeline import config, plan, schema, search
from pipeline.cli.datasets import series_of
from pipeline.cli.show import Said, jsonable, printable, show
from pipeline.commit import Ending
from pipeline.dataset import Dataset, Identity
from pipeline.errors import ConfigError, ExitCode
from pipeline.recipe import Recipe
from pipeline.stages import usable_checkpoint


def _load(arguments: Namespace) -> config.Config:
    return config.load(arguments.config, arguments.set, arguments.run_date)


def run(arguments: Namespace) -> Said:
    # `plan` and `status` must start without Ray, and this pulls it in.
    from pipeline.run import run as run_job  # noqa: PLC0415

    return _ended(arguments, run_job(_load(arguments), arguments.quiet))


def _ended(arguments: Namespace, ending: Ending) -> Said:
    summary = {"code": int(ending.code), "output": ending.output, **ending.summary}
    names = ["output", "reason", "files", "splits", "shards", "rows", "rejects", "tokens", "truncated"]
    if summary.get("base"):
        names += ["base", "copied", "reused", "embedded", "gone", "encode_seconds_saved"]
    show(arguments, {**summary, "reason": ending.reason}, names)
    for file, reason in ending.summary["failed_files"].items():
        sys.stderr.write(f"failed: {file}: {reason.splitlines()[0]}\n")
    return ending.code, ending.reason


def nightly(arguments: Namespace) -> Said:
    """A run of a series. Its date must be named: a retry after midnight goes on with the same dataset."""
    series_of(arguments)
    if arguments.run_date is None:
        hint = "such as --run-date 2026-11-25; whoever makes the job fixes it"
        raise ConfigError("a nightly job needs its date", "--run-date", hint=hint)
    return run(arguments)


def retry_rejects(arguments: Namespace) -> Said:
    from pipeline.retry import retry_rejects as retry  # noqa: PLC0415  (Ray, as above)

    return _ended(arguments, retry(_load(arguments), arguments.to, arguments.quiet))


def plan_(arguments: Namespace) -> Said:
    job = _load(arguments)
    model = usable_checkpoint(job)
    identity = Identity.of(job, model)
    dataset = Dataset.of(job)
    dataset.refuse_unconditional()
    found = dataset.plan() if dataset.refuse_other(identity) else None
    made = plan.Plan.from_bytes(found) if found else plan.make(job, model, identity.dataset_digest)
    by_rows = made.pieces.filter(pc.equal(made.pieces.column("unit"), "rows").fill_null(False))
    files = made.pieces.group_by(["source", "file"]).aggregate([("size", "max")])
    pending = made.pending(dataset.shards())
    show(
        arguments,
        {
            "output": job.output.path,
            "frozen": found is not None,
            "files": files.num_rows,
            "bytes": pc.sum(files.column("size_max")).as_py(),
            "rows counted": pc.sum(pc.subtract(by_rows.column("stop"), by_rows.column("start"))).as_py() or 0,
            "splits": len(made.split_ids),
            "pending": len(pending.split_ids),
            "bytes to read": pending.stored_bytes,
            "scans": sum(1 for _ in pending.scans()),
            "columns": [*made.columns.names, "embedding"],
            "dimension": Recipe.of(model, job.model).dimension(model),
            "failed files": made.failed_files,
        },
    )
    return ExitCode.DONE, ""


def status(arguments: Namespace) -> Said:
    dataset = Dataset.of(_load(arguments))
    found = dataset.plan()
    state: dict[str, Any] = {"output": dataset.layout.root, "state": "not started"}
    if found:
        made = plan.Plan.from_bytes(found)
        shards = dataset.shards()
        records = dataset.records(shards)
        state["state"] = "complete" if dataset.complete() else "unfinished"
        state |= {"splits": len(made.split_ids), "done": len(shards)}
        state |= {name: pc.sum(records.column(name)).as_py() or 0 for name in ("rows", "rejects", "tokens")}
        state["failed files"] = made.failed_files
    if attempts := dataset.attempts():
        last = attempts[-1]
        ending = f"exit {last['code']}: {last['reason']}" if "code" in last else "running, or killed"
        state |= {"attempts": len(attempts), "last attempt": last["attempt"], "it ended": ending}
    show(arguments, state)
    return ExitCode.DONE, ""


def search_(arguments: Namespace) -> Said:
    job = _load(arguments)
    hits = search.search(job, usable_checkpoint(job), arguments.query, arguments.count)
    planned = plan.Plan.from_bytes(Dataset.of(job).plan() or b"") if hits else None
    texts = [search.source_text(job, planned, hit.row) if planned else None for hit in hits]
    if arguments.json:
        found = [{"score": hit.score, "text": text, **hit.row} for hit, text in zip(hits, texts, strict=True)]
        sys.stdout.write(json.dumps(found, indent=2, default=jsonable) + "\n")
        return ExitCode.DONE, ""
    for hit, text in zip(hits, texts, strict=True):
        carried = [str(value) for name, value in hit.row.items() if name not in schema.reserved_names()]
        sys.stdout.write(f"{hit.score:7.4f}  {printable('  '.join(carried), 90)}\n")
        sys.stdout.write(f"         {printable(text or '(its source is gone or has changed)', 90)}\n")
    return ExitCode.DONE, ""
