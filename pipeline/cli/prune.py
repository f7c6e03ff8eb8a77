"""The command `prune`: removes the old datasets of a series."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from pipeline.cli.arguments import series_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, printable, show, write
from pipeline.config.load import load_config
from pipeline.errors import ExitCode
from pipeline.nightly import PruneDecision
from pipeline.publish import named_by_tables


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, default=3, metavar="N", help="the newest N stay (default: 3)")
    parser.add_argument(
        "--older-than", type=int, metavar="DAYS", help="of the others, remove only older ones"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")


def run(arguments: Namespace) -> CommandResult:
    series = series_of(arguments)
    shown = named_by_tables(series, load_config(arguments.config, arguments.set).publish)
    fates = series.prune(arguments.keep, arguments.older_than, arguments.dry_run, shown=shown)
    if arguments.json:
        datasets = [asdict(fate) for fate in fates]
        show(arguments, {"series": series.layout.root, "dry_run": arguments.dry_run, "datasets": datasets})
        return ExitCode.DONE, ""
    for fate in fates:
        write(*_fate(fate, arguments.dry_run))
    return ExitCode.DONE, ""


def _fate(fate: PruneDecision, dry_run: bool) -> list[str]:
    """Says in a line what happens to a dataset, and in a second line which files in it are not ours."""
    word = "kept" if not fate.removed else "would go" if dry_run else "removed"
    name, left = printable(fate.name, 40), printable(", ".join(fate.left), 90)
    stays = [f"{'':{len(name)}}  {'stays':<8}  not ours: {left}"] if left else []
    return [f"{name}  {word:<8}  {fate.reason}", *stays]


COMMAND = Command(
    name="prune",
    help="remove the old datasets of a series that nobody needs",
    run=run,
    add_arguments=add_arguments,
    date=False,
    examples=(("prune configs/nightly.yaml --keep 7 --dry-run", "which old datasets nobody needs"),),
)
