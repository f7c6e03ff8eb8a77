"""The command `nightly`: runs the job of one night, for an explicit date."""

from argparse import Namespace

from pipeline.cli.arguments import series_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult
from pipeline.cli.run import run as run_any
from pipeline.errors import ConfigError


def run(arguments: Namespace) -> CommandResult:
    """Runs a job of a series.

    The date must be given, so that a retry after midnight continues with the same dataset.
    """
    series_of(arguments)
    if arguments.run_date is None:
        hint = "such as --run-date 2026-11-25; set it where the job is created"
        raise ConfigError("a nightly job needs its date", "--run-date", hint=hint)
    return run_any(arguments)


COMMAND = Command(
    name="nightly",
    help="run a job of a series, for an explicit date",
    run=run,
    examples=(("nightly configs/nightly.yaml --run-date 2026-11-25", "embed what changed"),),
)
