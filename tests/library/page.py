"""Runs the code of docs/library.md as a reader would who copies a section from its start to its end."""

import re
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parents[2] / "docs" / "library.md").read_text()


def headings() -> list[str]:
    """Returns the headings of the sections that have code."""
    sections = TEXT.split("\n## ")[1:]
    return [section.partition("\n")[0] for section in sections if "```python" in section]


def run(heading: str, folder: Path) -> dict[str, Any]:
    """Runs a section in a folder; returns its variables. The Python before a block of text must print it."""
    names: dict[str, Any] = {}
    section = next(each for each in TEXT.split("\n## ") if each.startswith(f"{heading}\n"))
    said = StringIO()
    with chdir(folder), redirect_stdout(said):
        for number, (language, block) in enumerate(re.findall(r"^```(\w+)\n(.*?)^```", section, re.M | re.S)):
            if language == "python":
                said.truncate(0)
                said.seek(0)
                exec(compile(block, f"library.md, {heading}, block {number}", "exec"), names)
            else:
                assert said.getvalue().strip() == block.strip()
    return names
