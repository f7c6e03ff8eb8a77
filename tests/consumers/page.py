"""Runs the code of docs/reading.md as a reader would who copies a section from its start to its end."""

import re
from collections import defaultdict
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb

TEXT = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()


def job() -> str:
    """Returns the only config that the page shows."""
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    return str(text)


def sections() -> dict[str, list[tuple[str, str]]]:
    """Returns for each heading its blocks in order: the language and the content."""
    found = defaultdict(list)
    for section in TEXT.split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", section, re.M | re.S):
            found[heading].append((language, block))
    return dict(found)


def run(heading: str, folder: Path) -> dict[str, Any]:
    """Runs a section in a folder; returns its Python variables, and as `answers` the rows of each SQL block.

    The Python before a block of text must have printed that text.
    """
    names: dict[str, Any] = {"answers": []}
    said = StringIO()
    with chdir(folder), duckdb.connect() as connection, redirect_stdout(said):
        for number, (language, block) in enumerate(sections()[heading]):
            if language == "python":
                exec(compile(block, f"reading.md, {heading}, block {number}", "exec"), names)
            elif language == "sql":
                names["answers"].append(connection.execute(block).to_arrow_table().to_pylist())
            else:
                assert said.getvalue().strip() == block.strip()
    return names
