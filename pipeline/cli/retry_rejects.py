"""The command `retry-rejects`: embeds the rejects that may succeed in another try, into a new dataset."""

from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import job_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult
from pipeline.cli.run import ended


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--to", metavar="PATH", help="the new dataset (default: beside the old one, -retry1)")


def run(arguments: Namespace) -> CommandResult:
    from pipeline.driver.retry_rejects import retry_rejects as retry  # noqa: PLC0415  (Ray, as in `run`)

    config = job_of(arguments)
    return ended(arguments, config, retry(config, arguments.to, arguments.quiet))


COMMAND = Command(
    name="retry-rejects",
    help="try again the rejects that may succeed this time, in a new dataset",
    run=run,
    add_arguments=add_arguments,
    examples=(("retry-rejects configs/nightly.yaml --run-date 2026-11-25", "in a new dataset"),),
)
