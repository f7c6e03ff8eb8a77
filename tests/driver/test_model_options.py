"""Tests that a job gives the same vectors as a computation by hand, for every model option."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.errors import ExitCode, OtherDatasetError
from pipeline.model import checkpoint
from pipeline.model.outputs import embedding
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import read_dataset, texts, write_config
from tests.driver.test_run import embed
from tests.model.test_encoder import encode, reference

Job = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("flow")
LONG = [
    f"text {number}: " + "naïve words — and more " * (8 * (number % 4)) + "the end" for number in range(12)
]


@pytest.fixture
def long(job: Job, corpus: Path) -> Job:
    """Returns a job over twelve documents, most of them longer than 16 tokens."""
    for path in corpus.glob("*.parquet"):
        path.unlink()
    pq.write_table(pa.table({"key": range(12), "text": LONG, "topic": ["t"] * 12}), corpus / "0.parquet")
    return lambda **model: job(
        model={**job()["model"], "max_tokens": 16, **model}, output={"rows_per_shard": 5}
    )


def test_a_row_for_each_window(long: Job, tmp_path: Path, tiny: Path) -> None:
    ending = embed(long(long_text="chunks", chunk_overlap=4))
    assert ending.code == ExitCode.DONE
    table = read_dataset(tmp_path / "out").sort_by([("key", "ascending"), ("chunk", "ascending")])
    assert table.num_rows > 12
    assert ending.summary["rows"] == table.num_rows
    rows = table.to_pylist()
    parts = [LONG[row["key"]][row["char_start"] : row["char_stop"]] for row in rows]
    for before, after in pairwise(rows):
        assert after["chunk"] == (before["chunk"] + 1 if after["key"] == before["key"] else 0)
        assert after["key"] != before["key"] or after["text_hash"] == before["text_hash"]
    assert {row["key"] for row in rows} == set(range(12))
    found = np.stack([row["embedding"] for row in rows])
    np.testing.assert_allclose(found, reference(tiny, parts, 16), atol=1e-5)
    tokens = Tokenizer(checkpoint.resolve(str(tiny)), 16).encode(pa.array(parts, pa.large_string()))
    assert [row["n_tokens"] for row in rows] == tokens.lengths.tolist()


def test_the_mean_of_the_windows(long: Job, tmp_path: Path, tiny: Path) -> None:
    embed(long(long_text="chunks"))
    windows = read_dataset(tmp_path / "out")
    values = long(long_text="mean_of_chunks")
    values["output"] |= {"path": str(tmp_path / "means")}
    assert embed(values).summary["rows"] == 12
    means = read_dataset(tmp_path / "means")
    assert not any(means.column("truncated").to_pylist())
    for row in means.to_pylist():
        parts = [part for part in windows.to_pylist() if part["key"] == row["key"]]
        mean = sum(np.array(part["embedding"]) * part["n_tokens"] for part in parts)
        np.testing.assert_allclose(row["embedding"], mean / np.linalg.norm(mean), atol=1e-5)
        assert row["n_tokens"] == sum(part["n_tokens"] for part in parts)


def test_a_prefix_and_fewer_dimensions(job: Job, tmp_path: Path, tiny: Path) -> None:
    embed(job(model={"prefix": "passage: ", "truncate_dim": 6, "pooling": "mean_sqrt_len"}))
    wanted = encode(tiny, [f"passage: {text}" for text in texts(60)], model={"truncate_dim": 6})
    found = np.stack(read_dataset(tmp_path / "out").column("embedding").to_numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-5)  # mean_sqrt_len is the mean, once normalized


@pytest.mark.parametrize(("kind", "far"), [("int8", 0.01), ("binary", 1.3)])
def test_quantized_vectors(job: Job, tmp_path: Path, tiny: Path, kind: str, far: float) -> None:
    embed(job(model={"vector": kind}))
    table = read_dataset(tmp_path / "out")
    wanted = reference(tiny, texts(60), 512)
    assert np.abs(embedding.load(table, 16) - wanted).max() <= far
    np.testing.assert_array_equal(embedding.load(table, 16) > 0, wanted > 0) if kind == "binary" else None
    assert table.schema.field("embedding").type == (
        pa.binary() if kind == "binary" else pa.list_(pa.int8(), 16)
    )


def test_what_does_not_fit_together_is_refused_before_anything_runs(long: Job, job: Job) -> None:
    for values, message in (
        (long(chunk_overlap=9, long_text="chunks"), "chunk_overlap is too large"),
        (long(prefix="one two three four five six seven eight nine "), "prefix leaves too little"),
        (long(truncate_dim=17), "truncate_dim is more than the vector has"),
        (job(model={"max_tokens": 513}), "more than the model has positions"),
    ):
        with pytest.raises(checkpoint.ModelError, match=message):
            embed(values)


def search(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(["search", *arguments])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_search_finds_the_text_itself(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    values = job(model={"vector": kind})
    path = str(write_config(tmp_path / "job.yaml", values))
    embed(values)
    code, out = search(capsys, path, texts(60)[33], "--count", "3", "--json")
    hits = json.loads(out)
    assert (code, len(hits)) == (0, 3)
    assert (hits[0]["key"], hits[0]["text"]) == (33, texts(60)[33])
    assert hits[0]["score"] > 0.999
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert "embedding" not in hits[0]

    code, out = search(capsys, path, texts(60)[33], "--count", "1")
    assert out.splitlines()[0].split()[1:] == ["33", "t0"]
    assert out.splitlines()[1].strip() == " ".join(texts(60)[33].split())[:89] + "…"

    (tmp_path / "corpus/1.parquet").unlink()
    code, out = search(capsys, path, texts(60)[33], "--count", "1")
    assert "its source is gone or has changed" in out


def test_search_in_windows_shows_the_window(
    long: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = long(long_text="chunks")
    path = str(write_config(tmp_path / "job.yaml", values))
    embed(values)
    _, out = search(capsys, path, "and more the end", "--json")
    hits = json.loads(out)
    assert "and more the end" in hits[0]["text"]
    for hit in hits:
        assert hit["text"] == LONG[hit["key"]][hit["char_start"] : hit["char_stop"]]


def test_search_where_nothing_is_or_another_config_was(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_config(tmp_path / "job.yaml", job()))
    assert cli.main(["search", path, "x"]) == ExitCode.CONFIG
    assert "no dataset here" in capsys.readouterr().err
    embed(job())
    other = ["search", path, "x", "--set", "model.max_tokens=64"]
    assert cli.main(other) == OtherDatasetError.exit_code
