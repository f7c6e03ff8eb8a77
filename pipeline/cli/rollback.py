"""The command `rollback`: lets readers of a series follow an older dataset."""

from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import series_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, show
from pipeline.errors import ExitCode
from pipeline.nightly import Latest, Series


def add_arguments(parser: ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--to", metavar="NAME", help="which dataset (default: the one before)")
    way.add_argument("--unpin", action="store_true", help="follow the newest again, and later runs")


def run(arguments: Namespace) -> CommandResult:
    series = series_of(arguments)
    before = series.latest()
    latest = series.unpin() if arguments.unpin else series.rollback(arguments.to)
    told = {"series": series.layout.root, **latest.fields(), "changes": _changes(series, before, latest)}
    show(arguments, told)
    return ExitCode.DONE, ""


def _changes(series: Series, before: Latest | None, latest: Latest) -> str | None:
    """Returns the folder of the changes since the dataset that readers followed; None if there is none."""
    if before is None or before.dataset == latest.dataset:
        return None
    dataset = series.dataset(latest.dataset)
    layout = dataset.layout.changes(before.dataset)
    return layout.root if dataset.storage.exists(layout.success) else None


COMMAND = Command(
    name="rollback",
    help="let readers of a series follow an older dataset until it is unpinned",
    run=run,
    add_arguments=add_arguments,
    date=False,
    examples=(
        ("rollback configs/nightly.yaml", "let readers follow the previous dataset"),
        ("rollback configs/nightly.yaml --to 2026-11-24", "or a certain one"),
        ("rollback configs/nightly.yaml --unpin", "let runs move them on again"),
    ),
)
