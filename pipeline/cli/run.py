"""The command `run`: does the job of a config, or what is left of it."""

from argparse import Namespace

from pipeline.cli import publish
from pipeline.cli.arguments import job_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, printable, show
from pipeline.config.sections import Config
from pipeline.dataset.ending import RunResult
from pipeline.errors import ExitCode
from pipeline.humanize import first_few
from pipeline.sanitize import first_line
from pipeline.telemetry import console

LONGEST_FAILED = 1000
COMPLETE = (ExitCode.DONE, ExitCode.SOURCE_MOVED)
"""The endings after which readers follow the dataset, if nothing holds them back."""


def run(arguments: Namespace) -> CommandResult:
    # `plan` and `status` must start without Ray, and this import loads it.
    from pipeline.driver.run import run as run_job  # noqa: PLC0415

    config = job_of(arguments)
    return ended(arguments, config, run_job(config, arguments.quiet))


def ended(arguments: Namespace, config: Config, ending: RunResult) -> CommandResult:
    """Prints how a run ended, lets tables follow it, and returns its exit code and reason.

    Raises:
        PipelineError: the dataset is complete, and a table could not be published.
    """
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
    if ending.code in COMPLETE:
        publish.follow(config)
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
