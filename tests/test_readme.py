"""Follows the README: plans and embeds the reader's own CSV, and queries it in DuckDB, as the page says."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import yaml

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"


def blocks(page: Path, language: str) -> list[str]:
    """Returns the fenced blocks of a language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def follow(commands: str) -> None:
    """Runs commands as a reader does."""
    for line in commands.splitlines():
        done = subprocess.run(
            [sys.executable, *shlex.split(line)[1:]],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_a_csv_of_ones_own_is_embedded_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bodies = [
        "How to read a file line by line.", "The cat sat on the mat.", "Rain is expected in the north.",
        "The cat is sitting on the mat.", "Shares fell after the bank's report.", "A recipe for lentil soup.",
    ]  # fmt: skip
    with Path("articles.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["article_id", "body", "language"])
        rows.writerows([number, body, "en"] for number, body in enumerate(bodies))
    shown = blocks(ENGLISH, "yaml")[0]
    drafts, commands = [block for block in blocks(ENGLISH, "bash") if "articles.yaml" in block]
    follow(drafts)
    source, drafted = (yaml.safe_load(text)["source"] for text in (shown, Path("articles.yaml").read_text()))
    assert source["articles"] | {"format": "csv"} == drafted["articles"] | {"carry": ["language"]}
    Path("articles.yaml").write_text(shown)
    follow(commands)
    found = duckdb.sql(blocks(ENGLISH, "sql")[0]).fetchall()
    assert len(found) == 10
    assert {found[0][0], found[0][1]} == {"1", "3"}  # a CSV's values are strings
    assert found[0][2] > found[2][2]


def test_both_languages_say_the_same() -> None:
    """Checks that both have the same commands, queries, links and figures."""
    for language in ("bash", "sql"):
        assert blocks(ENGLISH, language) == blocks(CHINESE, language)
    english, chinese = ENGLISH.read_text(), CHINESE.read_text()
    links = [
        set(re.findall(r"\]\(([^)]+)\)", text)) - {ENGLISH.name, CHINESE.name} for text in (english, chinese)
    ]
    assert links[0] == links[1]
    assert english.count("\n## ") == chinese.count("\n## ")
    assert re.findall(r"^\| (\d) \|", english, re.M) == re.findall(r"^\| (\d) \|", chinese, re.M)
    configs = [[re.sub(r" *#.*", "", block) for block in blocks(page, "yaml")] for page in (ENGLISH, CHINESE)]
    assert configs[0] == configs[1]
