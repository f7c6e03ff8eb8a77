"""Reads docs/errors.md, and provokes its errors to check that they print what the page shows."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.errors import ExitCode

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"
ANY = "…"
"""The page's placeholder for what differs from machine to machine, or from day to day."""


@dataclass(frozen=True)
class Entry:
    """An error of the page: its exit code, its message, and the text below."""

    code: int
    message: str
    text: str


def entries() -> dict[str, Entry]:
    """Returns the page's errors by name."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]:
        code = re.match(r"Exit code (\d)", section)
        for part in re.split(r"^### ", section, flags=re.M)[1:] if code else ():
            name, rest = part.split("\n", 1)
            parsed = re.fullmatch(r"\n```text\n(.*?)\n```\n\n(.*?)\n*", rest, re.S)
            assert parsed, f"{name}: not as the others"
            assert code
            found[name] = Entry(int(code[1]), parsed[1], parsed[2])
    return found


def assert_printed(entry: Entry, printed: str, after_others: bool = False) -> None:
    """Checks that only the page's message was printed: no traceback, and no line twice.

    Args:
        after_others: true if a library may have printed something before.
    """
    pattern = ".+?".join(re.escape(part) for part in entry.message.split(ANY))
    before = r"(.*\n)?" if after_others else ""
    assert re.fullmatch(before + pattern, printed.rstrip("\n"), re.S), printed
    last = entry.message.splitlines()[-1]
    assert ANY in last or printed.count(last) == 1


def provoke(
    entry: Entry,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    during: Callable[[], None],
    after_others: bool = False,
) -> None:
    """Runs a command, and compares its output with the page.

    Args:
        during: the context that provokes the error.
    """
    during()
    capsys.readouterr()
    code = cli.main([*arguments, "--quiet"])
    assert (ExitCode(code), entry.code) == (ExitCode(entry.code), code)
    assert_printed(entry, capsys.readouterr().err, after_others)
