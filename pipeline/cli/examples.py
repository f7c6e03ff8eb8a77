"""Formats the end of `--help`: examples and exit codes."""

from collections.abc import Iterable

from pipeline.cli.command import Command, Example

CODES = """
exit codes: 0 done; 1 a bug in this program; 2 config; 3 files failed, too many rejects, or findings;
            4 run it again; 5 the output belongs to another config; 6 complete, but the source has moved on;
            7 a run is at work (status --exit-code)
"""


def of(command: Command) -> str:
    """Returns the examples of one command."""
    return _text(command.examples)


def of_all(commands: Iterable[Command]) -> str:
    """Returns the first example of each command, and the exit codes."""
    return _text([command.examples[0] for command in commands]) + CODES


def _text(examples: Iterable[Example]) -> str:
    return "\n".join(
        ["examples:", *(f"  # {what}\n  python -m pipeline {command}" for command, what in examples), ""]
    )
