"""Runs the example of docs/changes.md: a real PostgreSQL with pgvector follows a series of nights."""

import datetime
import json
import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.config.load import load_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests import postgres
from tests.conftest import read_dataset, texts
from tests.flow import use_no_ray

PAGE = (Path(__file__).parents[2] / "docs" / "changes.md").read_text()
FIRST = datetime.date(2026, 11, 24)


def example() -> dict[str, Any]:
    """Returns what the page's code defines."""
    names: dict[str, Any] = {}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)):
        exec(compile(block, f"changes.md, block {number}", "exec"), names)
    return names


def write_articles(folder: Path, rows: dict[int, tuple[str, str]]) -> None:
    """Writes files of ten articles each, by their ids: an unchanged file keeps its version."""
    folder.mkdir(exist_ok=True)
    wanted: dict[str, dict[str, list[Any]]] = {}
    for article, (body, language) in sorted(rows.items()):
        columns = wanted.setdefault(
            f"{article // 10}.parquet", {"article_id": [], "body": [], "language": []}
        )
        for name, value in zip(columns, (article, body, language), strict=True):
            columns[name].append(value)
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, columns in wanted.items():
        table = pa.table(columns)
        if not (folder / name).exists() or not pq.read_table(folder / name).equals(table):
            pq.write_table(table, folder / name)


def night(number: int, model: Path) -> str:
    """Runs the page's job for a night; returns the name of its dataset."""
    date = FIRST + datetime.timedelta(number)
    with pytest.MonkeyPatch.context() as patch:
        use_no_ray(patch)
        loaded = load_config("job.yaml", [f"model.name={model}", "output.rows_per_shard=10"], date)
        ending = run.run(loaded, quiet=True)
    assert ending.code == ExitCode.DONE, ending.reason
    return date.isoformat()


@pytest.fixture
def store() -> Iterator[Any]:
    psycopg = pytest.importorskip("psycopg")
    with postgres.server() as address, psycopg.connect(address, autocommit=True) as connection:
        yield connection


def assert_equal(store: Any, dataset: str) -> None:
    """Checks that the store has exactly the rows of a dataset, with their vectors."""
    found = store.execute("SELECT article_id, language, embedding::text FROM articles ORDER BY article_id")
    rows = read_dataset(f"embeddings/{dataset}").sort_by("article_id").to_pylist()
    there = found.fetchall()
    assert [row[:2] for row in there] == [(row["article_id"], row["language"]) for row in rows]
    vectors = np.array([json.loads(row[2]) for row in there], np.float32)
    assert np.array_equal(vectors, np.array([row["embedding"] for row in rows], np.float32))


@pytest.mark.full
def test_a_store_follows_three_nights_and_a_rollback(tmp_path: Path, tiny: Path, store: Any) -> None:
    names = example()
    follow = names["follow"]
    (tmp_path / "job.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
    articles = {number: (text, "en") for number, text in enumerate(texts(60))}
    with chdir(tmp_path):
        write_articles(tmp_path / "articles", articles)
        first = night(0, tiny)
        names["prepare"](store, 16)
        assert follow(store) == 60
        assert_equal(store, first)

        articles[3] = ("another text", "en")
        articles[14] = (articles[14][0], "de")
        del articles[25]
        articles[60] = ("a new one", "en")
        write_articles(tmp_path / "articles", articles)
        second = night(1, tiny)
        assert follow(store) == 4
        assert_equal(store, second)
        assert follow(store) == 0

        articles = {number: row for number, row in articles.items() if not 30 <= number < 40}
        articles[3] = ("yet another text", "fr")
        write_articles(tmp_path / "articles", articles)
        third = night(2, tiny)
        assert follow(store) == 11
        assert_equal(store, third)

        series = "--config job.yaml --quiet"
        assert cli.main(f"changes {second} --since {third} {series}".split()) == ExitCode.DONE
        assert cli.main(["rollback", "job.yaml", "--quiet"]) == ExitCode.DONE
        assert follow(store) == 11
        assert_equal(store, second)
