"""The command `run`: does the job of a config, or what is left of it."""

from argparse import Namespace

from pipeline.cli.arguments import job_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, printable, show
from pipeline.dataset.ending import RunResult
from pipeline.humanize import first_few
from pipeline.sanitize import first_line
from pipeline.telemetry import console

LONGEST_FAILED = 1000


def run(arguments: Namespace) -> CommandResult:
    # `plan` and `status` must start without Ray, and this import loads it.
    from pipeline.driver.run import run as run_job  # noqa: PLC0415

    return ended(arguments, run_job(job_of(arguments), arguments.quiet))


def ended(arguments: Namespace, ending: RunResult) -> CommandResult:
    """Prints how a run ended, and returns its exit code and reason."""
    summary = {"code": int(ending.code), "output": ending.output, **ending.summary}
    names = ["output", "reason", "files", "splits", "shards", "rows", "rejects", "tokens", "truncated"]
    if summary.get("base"):
        names += ["base", "copied", "reused", "embedded", "gone", "encode_seconds_saved"]
    names += ["changes"] if summary.get("changes") else []
    names += ["report"] if ending.report else []
    told = {**summary, "reason": ending.reason, "report": ending.report}
    if not arguments.json and summary.get("changes"):
        told["changes"] = ", ".join(f"{rows:,} {name}" for name, rows in summary["changes"].items())
    show(arguments, told, names)
    failed = ending.summary["failed_files"].items()
    for line in first_few([f"{file}: {first_line(reason, LONGEST_FAILED)}" for file, reason in failed]):
        console.print_line(printable(f"failed: {line}", LONGEST_FAILED))
    return ending.code, ending.reason


COMMAND = Command(
    name="run",
    help="do the job, or what is left of it",
    run=run,
    examples=(
        ("run configs/demo.yaml", "do the job, or what is left of it"),
        ("run configs/demo.yaml --set model.max_tokens=128 --set output.path=/tmp/short", "another dataset"),
    ),
)
