"""The command `publish`: lets tables show the dataset that readers follow, or an older one."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from pipeline.cli.arguments import series_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, figure, printable, show_json, write
from pipeline.config.load import load_config
from pipeline.config.sections import Config
from pipeline.errors import ConfigError, ExitCode
from pipeline.nightly import Series, series_folder
from pipeline.publish import Published, publish


def add_arguments(parser: ArgumentParser) -> None:
    text = "which dataset (default: that of LATEST.json)"
    parser.add_argument("--dataset", dest="name", metavar="NAME", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only show what would be published")


def run(arguments: Namespace) -> CommandResult:
    series = series_of(arguments)
    tables = load_config(arguments.config, arguments.set).publish
    if not tables:
        hint = "name a table, such as publish: {lake: {format: delta}}"
        raise ConfigError("names no table", f"{arguments.config}: publish", hint=hint)
    found = publish(series, tables, arguments.name, arguments.dry_run)
    if arguments.json:
        told = [asdict(each) for each in found]
        show_json({"series": series.layout.root, "dry_run": arguments.dry_run, "tables": told})
        return ExitCode.DONE, ""
    for each in found:
        write(_line(each))
    return ExitCode.DONE, ""


def follow(config: Config) -> None:
    """Lets the tables of a config show what readers follow, after a run.

    Raises:
        PipelineError: the errors of `publish`; the run's dataset is complete all the same.
    """
    folder = series_folder(config.output)
    if config.publish and folder:
        publish(Series(folder, config.output.options), config.publish)


def _line(each: Published) -> str:
    told = f"{figure(each.rows)} rows in {figure(each.files)} files"
    return f"{printable(each.table, 40)}  {each.state:<13}  {printable(each.dataset, 40)}: {told}"


COMMAND = Command(
    name="publish",
    help="let tables of Delta Lake or Iceberg show the dataset that readers follow",
    run=run,
    add_arguments=add_arguments,
    date=False,
    examples=(
        ("publish configs/nightly.yaml", "let the config's tables show what LATEST.json names"),
        ("publish configs/nightly.yaml --dataset 2026-11-24 --dry-run", "what an older one would change"),
    ),
)
