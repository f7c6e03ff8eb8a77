"""Tests the demo in a copy of the project, twice: the second run has nothing to do."""

import email
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import docstrings
from pipeline.model import checkpoint
from tests.model.test_encoder import reference

ROOT = Path(__file__).parents[2]
LIBRARY = Path(email.__file__).parent
"""The part of Python's library whose docstrings are enough."""


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "jobs.demo"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.full)])
def test_the_demo(tmp_path: Path, whole: bool) -> None:
    for name in ("pipeline", "jobs", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    if not whole:  # the demo leaves a source that is there
        source = tmp_path / ".demo/source"
        source.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([*docstrings.docstrings(LIBRARY)]), source / "email.parquet")
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "What to type next" in first.stdout

    source = pl.read_parquet(f"{tmp_path}/.demo/source/*.parquet")
    shards = pl.read_parquet(f"{tmp_path}/.demo/embeddings/data/*.parquet")
    assert len(source) == len(shards) > (5000 if whole else 100)
    assert shards["id"].n_unique() == shards.select("source_file", "source_row").n_unique() == len(shards)
    vectors = shards["embedding"].to_numpy()
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    files = sorted((tmp_path / ".demo/source").glob("*.parquet"))
    texts = {
        (f"docstrings/{path.name}", row): text
        for path in files
        for row, text in enumerate(pl.read_parquet(path)["docstring"])
    }
    sample = shards.sort("source_file", "source_row").sample(200 if whole else 20, seed=0)
    wanted = [texts[key] for key in zip(sample["source_file"], sample["source_row"], strict=True)]
    folder = checkpoint.resolve("albert-mini").folder
    np.testing.assert_allclose(sample["embedding"].to_numpy(), reference(folder, wanted, 512), atol=1e-5)

    again = demo(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "planning" not in again.stderr
    assert "starting" not in again.stderr
