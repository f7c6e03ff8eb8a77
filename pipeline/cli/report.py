"""The command `report`: writes the page about a dataset to a local file."""

import datetime
from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.arguments import config_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, show
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import standing
from pipeline.errors import ExitCode, MissingError


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--to", metavar="FILE", default="report.html", help="the file (default: report.html, here)"
    )


def run(arguments: Namespace) -> CommandResult:
    """Writes the report of the dataset's present state, complete or not; leaves the dataset's own alone."""
    from pipeline.operate import report as pages  # noqa: PLC0415  (importing the charts takes 60 ms, which no other command should pay)

    job = config_of(arguments)
    dataset = Dataset.of(job)
    frozen = dataset.plan()
    if frozen is None:
        raise MissingError("no dataset here", job.output.path, hint="run the config first")
    ending, records = standing(dataset, frozen)
    about = ending.code, ending.reason, ending.summary
    subject = pages.Subject(job, dataset, frozen, *about, records)
    Path(arguments.to).write_bytes(pages.page(subject, datetime.datetime.now(datetime.UTC)))
    show(arguments, {"output": dataset.layout.root, "state": ending.reason, "report": arguments.to})
    return ExitCode.DONE, ""


COMMAND = Command(
    name="report",
    help="write the report of a dataset, complete or not, to a local file",
    run=run,
    add_arguments=add_arguments,
    examples=(("report configs/demo.yaml --to report.html", "what was done, on one page"),),
)
