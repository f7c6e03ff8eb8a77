"""The command `nightly`: run the job of one night, for a date that is named."""

from argparse import Namespace

from pipeline.cli.arguments import series_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult
from pipeline.cli.run import run as run_any
from pipeline.errors import ConfigError


def run(arguments: Namespace) -> CommandResult:
    """Runs a job of a series.

    Its date must be named: a retry after midnight goes on with the same dataset.
    """
    series_of(arguments)
    if arguments.run_date is None:
        hint = "such as --run-date 2026-11-25; whoever makes the job fixes it"
        raise ConfigError("a nightly job needs its date", "--run-date", hint=hint)
    return run_any(arguments)


COMMAND = Command(
    name="nightly",
    help="run a job of a series, for a date that is named",
    run=run,
    examples=(("nightly configs/nightly.yaml --run-date 2026-11-25", "embed what changed"),),
)
