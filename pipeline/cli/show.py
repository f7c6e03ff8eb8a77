"""What commands print: figures for a person or as JSON, and texts of others without what steers terminals."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from pipeline.errors import ExitCode

Said = tuple[ExitCode, str]
"""How a command ends: its exit code, and why in a line."""


def show(arguments: Namespace, values: dict[str, Any], names: Sequence[str] | None = None) -> None:
    """Print figures to standard output: all of them as JSON, or the named ones for a person."""
    if arguments.json:
        sys.stdout.write(json.dumps(values, indent=2) + "\n")
        return
    for name in names or values:
        value = values[name]
        text = ", ".join(f"{item}" for item in value) if isinstance(value, list) else figure(value)
        sys.stdout.write(f"{name:>16}  {text}\n")


def figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def printable(text: str, width: int) -> str:
    """The beginning of a text on one line, without what could steer a terminal."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def jsonable(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
