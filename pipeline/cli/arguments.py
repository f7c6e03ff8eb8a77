"""Defines the arguments that several commands share, and loads what they name."""

import datetime
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace

import shtab

from pipeline import telemetry
from pipeline.cli.command import Command
from pipeline.config.load import load_config
from pipeline.config.sections import Config
from pipeline.errors import ConfigError
from pipeline.estimate import warnings
from pipeline.nightly import Series


def add_arguments(parser: ArgumentParser, command: Command) -> None:
    """Adds the shared arguments and a command's own."""
    if command.config:
        complete_file(parser.add_argument("config", help=command.config))
    if command.settings:
        parser.add_argument(
            "--set", action="append", default=[], metavar="section.field=value", help="override the config"
        )
    if command.date:
        text = "the date that {run_date} stands for (default: today, UTC; nightly has no default)"
        parser.add_argument("--run-date", type=date, help=text)
    command.add_arguments(parser)
    if command.json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")


def complete_file(argument: Action) -> None:
    """Lets shells complete file names for an argument."""
    vars(argument)["complete"] = shtab.FILE


def date(text: str) -> datetime.date:
    """Parses a date.

    Raises:
        ArgumentTypeError: the text is not a date.
    """
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a date such as 2026-11-25") from None


def fraction(text: str) -> float:
    """Parses a number from 0 to 1.

    Raises:
        ArgumentTypeError: the number lies outside.
    """
    value = float(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def config_of(arguments: Namespace) -> Config:
    """Loads the config that a command names, with its overrides and its date."""
    return load_config(arguments.config, arguments.set, arguments.run_date)


def job_of(arguments: Namespace) -> Config:
    """Loads the config of a job that connects to its storages, and warns of those that lack TLS."""
    loaded = config_of(arguments)
    for caution in warnings.plain_http(loaded):
        telemetry.warn(caution.text)
    return loaded


def series_of(arguments: Namespace) -> Series:
    """Returns the series that a config writes into: the folder above its datasets.

    Raises:
        ConfigError: the datasets are not named by their run date alone.
    """
    # No run has this date, so its place in the path is that of `{run_date}`.
    never = datetime.date.min
    output = load_config(arguments.config, arguments.set, never).output
    folder, _, name = output.path.rpartition("/")
    if name != never.isoformat() or name in folder or not folder.strip("/") or folder.endswith(":/"):
        hint = "such as s3://bucket/embeddings/{run_date}"
        raise ConfigError(
            "a series needs {run_date} as the last part of output.path",
            got=output.path.replace(never.isoformat(), "{run_date}"),
            hint=hint,
        )
    return Series(folder, output.options)
