"""The command `changes`: writes which rows a dataset has added, updated and deleted since another."""

from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import complete_file, series_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, show
from pipeline.config.location import Options
from pipeline.errors import ConfigError, ExitCode
from pipeline.nightly.changes.pair import Side
from pipeline.verify.verify import root


def add_arguments(parser: ArgumentParser) -> None:
    text = "the dataset's folder or URL; with --config its name in the series"
    complete_file(parser.add_argument("dataset", help=text))
    parser.add_argument(
        "--since", required=True, metavar="BASE", help="the dataset to compare with: its name, folder or URL"
    )
    text = "the YAML file of the series: its folder, and how its storage is reached"
    complete_file(parser.add_argument("--config", metavar="FILE", help=text))
    parser.add_argument("--dry-run", action="store_true", help="only count; write nothing")


def run(arguments: Namespace) -> CommandResult:
    # `plan` and `status` must start without what this import loads.
    from pipeline.driver.changes import make_changes  # noqa: PLC0415

    path, options = _dataset(arguments)
    beside = f"{path.rpartition('/')[0]}/{arguments.since}"
    since = root(arguments.since) if "/" in arguments.since else beside
    new, old = Side.at(path, options), Side.at(since, options)
    new.dataset.refuse_unconditional(live=False)
    made = make_changes(new, old, arguments.dry_run)
    told = {"dataset": path, "since": since, **made.figures}
    show(arguments, told if arguments.dry_run else {**told, "files": len(made.parts), "folder": made.folder})
    return ExitCode.DONE, ""


def _dataset(arguments: Namespace) -> tuple[str, Options]:
    """Returns the path of the dataset, and how its storage is reached."""
    name = arguments.dataset
    if arguments.config:
        series = series_of(arguments)
        path = root(name) if "/" in name else series.layout.dataset(name).root
        return path, series.options or Options()
    if arguments.set:
        hint = "name the config, too: --config FILE"
        raise ConfigError("do not apply to a dataset", "--set", name, hint)
    return root(name), Options()


COMMAND = Command(
    name="changes",
    help="write which rows a dataset has added, updated and deleted since another",
    run=run,
    add_arguments=add_arguments,
    config=None,
    date=False,
    examples=(
        (
            "changes 2026-11-25 --since 2026-11-24 --config configs/nightly.yaml",
            "what a search index needs to follow a night",
        ),
        (
            "changes 2026-11-24 --since 2026-11-25 --config configs/nightly.yaml",
            "and to go back, before a rollback",
        ),
        (
            "changes embeddings/2026-11-25 --since 2026-11-24 --dry-run",
            "only count, for folders without a config",
        ),
    ),
)
