"""The shape of a command: what it is called, what it takes, and what it does."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.cli.output import CommandResult

Example = tuple[str, str]
"""What follows `python -m pipeline`, and what it is for."""


def no_arguments(_: ArgumentParser) -> None:
    """Adds nothing: most commands have no arguments of their own."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of the command line.

    Args:
        help: one line in the list of commands, and the description of its own help.
        run: does it, and returns the exit code and the reason.
        examples: what its help ends with; the first one stands in the help of all commands, too.
        add_arguments: adds what no other command has.
        config: the help of the argument `config`; None if there is no such argument.
        settings, date, json: whether it takes `--set`, `--run-date` and `--json`.
    """

    name: str
    help: str
    run: Callable[[Namespace], CommandResult]
    examples: Sequence[Example]
    add_arguments: Callable[[ArgumentParser], None] = no_arguments
    config: str | None = "the job's YAML file"
    settings: bool = True
    date: bool = True
    json: bool = True
