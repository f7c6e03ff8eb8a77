"""Tests jobs with splits that share a scan, and with files that share a split."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import sections
from pipeline.config.load import parse_config
from pipeline.dataset.ending import RunResult
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests.conftest import read_dataset, texts

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]


def embed(values: dict[str, Any]) -> RunResult:
    return run.run(parse_config(values), quiet=True)


def test_a_compressed_file_is_streamed_once_and_resumed(job: Job, tmp_path: Path) -> None:
    rows = [json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(texts(400))]
    rows[7] = "{broken\n"
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(rows).encode()))
    source = {"path": str(path), "carry": ["n"]}
    values = job(source={"s": source}, output={"max_split_bytes": 1000, "rows_per_shard": 1024})
    # Spans of a streamed file have a thousand rows; the file is one, cut into parts by its bytes.
    ending = embed(values)
    assert (ending.code, ending.summary["rows"], ending.summary["rejects"]) == (ExitCode.DONE, 399, 1)
    assert ending.summary["shards"] > 10
    assert ending.summary["read_bytes"] < 1.1 * path.stat().st_size
    table = read_dataset(tmp_path / "out")
    assert table.column("n").to_pylist() == [n for n in range(400) if n != 7]
    assert table.column("source_row").to_pylist() == table.column("n").to_pylist()

    data = tmp_path / "out/data"
    (data / "_SUCCESS").unlink()
    removed = sorted(data.glob("*.parquet"))[::3]
    for shard in removed:
        shard.unlink()
    again = embed(values)
    assert (again.code, again.summary["run"]["splits"]) == (ExitCode.DONE, len(removed))
    assert read_dataset(tmp_path / "out").equals(table)


def test_a_bad_file_among_small_ones_is_named_and_costs_itself(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, text in enumerate(texts(9)):
        (folder / f"{number}.txt").write_text(text)
    values = job(source={"s": {"path": str(folder), "format": "text-files"}}, output={"rows_per_shard": 1000})
    parsed = parse_config(values)
    frozen = run.frozen_plan(parsed, *plan_arguments(parsed))
    assert len(frozen.split_ids) == 1
    (folder / "4.txt").write_text("changed")
    ending = embed(values)
    assert ending.code == ExitCode.INCOMPLETE
    assert list(ending.summary["failed_files"]) == ["s/in/4.txt"]
    assert "changed since it was planned" in ending.summary["failed_files"]["s/in/4.txt"]
    names = read_dataset(tmp_path / "out").column("source_file").to_pylist()
    assert names == [f"s/in/{number}.txt" for number in range(9) if number != 4]
    allowed = embed(job(**values, quality={"allow_failed_files": True}))
    assert (allowed.code, list(allowed.summary["failed_files"])) == (ExitCode.DONE, ["s/in/4.txt"])
    pieces = pq.read_table(tmp_path / "out/manifest.parquet").column("pieces").to_pylist()[0]
    assert [piece["file"] for piece in pieces if piece["error"]] == ["in/4.txt"]


def plan_arguments(parsed: sections.Config) -> tuple[Any, ...]:
    from pipeline.dataset.dataset import Dataset
    from pipeline.dataset.identity import Identity
    from pipeline.model.check import usable_checkpoint

    model = usable_checkpoint(parsed)
    return Dataset.of(parsed), Identity.of(parsed, model), model
