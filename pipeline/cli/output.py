"""Prints figures for a person or as JSON, and foreign texts without terminal control characters."""

import json
import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline import sanitize
from pipeline.errors import ExitCode
from pipeline.humanize import first_few

CommandResult = tuple[ExitCode, str]
"""The exit code of a command, and the reason in one line."""
Lines = Iterable[tuple[str, str]]
WIDTH = 110
"""Columns of the output without a terminal."""
LONGEST = 4000
"""Characters of a line."""
MAX_SHOWN = 5
"""Failed files and attempts that a person is shown; `--json` prints all."""


def show(arguments: Namespace, values: dict[str, Any], names: Sequence[str] | None = None) -> None:
    """Prints figures to standard output: all of them as JSON, or the named ones for a person."""
    if arguments.json:
        show_json(values)
        return
    for name in names or values:
        value = values[name]
        text = ", ".join(f"{item}" for item in value) if isinstance(value, list) else figure(value)
        write(f"{name:>16}  {text}")


def show_json(content: object) -> None:
    """Prints JSON. It escapes DEL, the only control character that `json.dumps` leaves as it is."""
    sys.stdout.write(json.dumps(content, indent=2, default=jsonable).replace("\x7f", "\\u007f") + "\n")


def write(*lines: str) -> None:
    """Prints lines to standard output. Each stays one line, whatever characters it contains."""
    for line in lines:
        sys.stdout.write(sanitize.printable(line, LONGEST) + "\n")


def show_lines(title: str, lines: Lines) -> None:
    """Prints a title, and below it texts beside their names; without a terminal without colours.

    A text without a name continues the one above it.
    """
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    named = [(name, _plain(text)) for name, text in lines if text]
    edge = max((len(name) for name, _ in named), default=0) + 2
    width = max(40, min(WIDTH, console.width if console.is_terminal else WIDTH) - edge - 2)
    console.print(Text(printable(title, 1000), style="bold"))
    for name, text in named:
        first, *more = textwrap.wrap(text, width, drop_whitespace=False, break_on_hyphens=False) or [""]
        console.print(Text.assemble((f"{name:>{edge}}", "cyan"), "  ", first.rstrip()))
        for line in more:
            console.print(Text(" " * (edge + 2) + line.strip()))


def failed_lines(failed: dict[str, str]) -> Lines:
    lines = [f"{file}: {sanitize.first_line(reason)}" for file, reason in failed.items()]
    for number, line in enumerate(first_few(lines, MAX_SHOWN)):
        yield "" if number else "failed", printable(line, 300)


def _plain(text: str) -> str:
    """Removes secrets, and replaces control characters with spaces."""
    return sanitize.strip_control(sanitize.redact(text), instead=" ")


def figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def printable(text: str, width: int) -> str:
    """Returns the beginning of a text on one line, without secrets and control characters."""
    line = " ".join(_plain(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def jsonable(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
