"""Defines a command: its name, its arguments, and what it does."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.cli.output import CommandResult

Example = tuple[str, str]
"""The arguments after `python -m pipeline`, and their purpose."""


def no_arguments(_: ArgumentParser) -> None:
    """Adds nothing: most commands have no arguments of their own."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of the command line.

    Args:
        help: one line in the list of commands, and the description of its own help.
        run: carries out the command; returns the exit code and the reason.
        examples: the end of the command's help. The help of all commands has the first one, too.
        add_arguments: adds the arguments that no other command has.
        config: the help of the argument `config`; None if the command does not take it.
        settings, date, json: true if the command takes `--set`, `--run-date` and `--json`.
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
