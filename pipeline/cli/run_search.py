"""Commands that make a dataset, or search one."""

from argparse import Namespace

from pipeline import telemetry
from pipeline.cli.output import Said, printable, show, show_json, write
from pipeline.cli.series_verify import series_of
from pipeline.config import sections
from pipeline.config.load import load_config
from pipeline.dataset.commit import Ending
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ConfigError, ExitCode
from pipeline.estimate import warnings
from pipeline.model.check import usable_checkpoint
from pipeline.model.outputs import reserved_names
from pipeline.operate import search
from pipeline.plan import plan
from pipeline.sanitize import few
from pipeline.telemetry import console

LONGEST_FAILED = 1000


def _load(arguments: Namespace) -> sections.Config:
    loaded = load_config(arguments.config, arguments.set, arguments.run_date)
    for caution in warnings.plain_http(loaded):
        telemetry.warn(caution.text)
    return loaded


def run(arguments: Namespace) -> Said:
    # `plan` and `status` must start without Ray, and this pulls it in.
    from pipeline.driver.run import run as run_job  # noqa: PLC0415

    return _ended(arguments, run_job(_load(arguments), arguments.quiet))


def _ended(arguments: Namespace, ending: Ending) -> Said:
    summary = {"code": int(ending.code), "output": ending.output, **ending.summary}
    names = ["output", "reason", "files", "splits", "shards", "rows", "rejects", "tokens", "truncated"]
    if summary.get("base"):
        names += ["base", "copied", "reused", "embedded", "gone", "encode_seconds_saved"]
    names += ["report"] if ending.report else []
    show(arguments, {**summary, "reason": ending.reason, "report": ending.report}, names)
    failed = ending.summary["failed_files"].items()
    for line in few([f"{file}: {reason.splitlines()[0]}" for file, reason in failed]):
        console.say(printable(f"failed: {line}", LONGEST_FAILED))
    return ending.code, ending.reason


def nightly(arguments: Namespace) -> Said:
    """A run of a series. Its date must be named: a retry after midnight goes on with the same dataset."""
    series_of(arguments)
    if arguments.run_date is None:
        hint = "such as --run-date 2026-11-25; whoever makes the job fixes it"
        raise ConfigError("a nightly job needs its date", "--run-date", hint=hint)
    return run(arguments)


def retry_rejects(arguments: Namespace) -> Said:
    from pipeline.driver.retry_rejects import retry_rejects as retry  # noqa: PLC0415  (Ray, as above)

    return _ended(arguments, retry(_load(arguments), arguments.to, arguments.quiet))


def search_(arguments: Namespace) -> Said:
    job = _load(arguments)
    hits = search.search(job, usable_checkpoint(job), arguments.query, arguments.count)
    planned = plan.Plan.from_bytes(Dataset.of(job).plan() or b"") if hits else None
    texts = [search.source_text(job, planned, hit.row) if planned else None for hit in hits]
    if arguments.json:
        found = [{"score": hit.score, "text": text, **hit.row} for hit, text in zip(hits, texts, strict=True)]
        show_json(found)
        return ExitCode.DONE, ""
    for hit, text in zip(hits, texts, strict=True):
        carried = [str(value) for name, value in hit.row.items() if name not in reserved_names()]
        write(
            f"{hit.score:7.4f}  {printable('  '.join(carried), 90)}",
            f"         {printable(text or '(its source is gone or has changed)', 90)}",
        )
    return ExitCode.DONE, ""
