"""Checks that the code of docs/reading.md does what the page says, in every engine that it names."""

import re
from collections.abc import Iterable, Mapping
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.dataset import Dataset
from tests.conftest import read_dataset
from tests.consumers import corpora, page

Pairs = Iterable[tuple[int, float]]
NEW = "embeddings/2026-11-25"
"""The dataset that LATEST.json names; the other one has a third of the articles."""


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[int, dict[str, Any]]:
    """The rows of the newer dataset by their articles, read file by file."""
    shards = (folder / NEW / "data").glob("*.parquet")
    return {row["article_id"]: row for shard in shards for row in pq.ParquetFile(shard).read().to_pylist()}


def cosines(rows: Mapping[int, dict[str, Any]]) -> dict[int, float]:
    """Returns the cosine of each article to article 7."""
    query = np.array(rows[7]["embedding"])
    return {key: float(np.array(row["embedding"]) @ query) for key, row in rows.items()}


def assert_nearest(found: Pairs, rows: Mapping[int, dict[str, Any]]) -> None:
    """Checks for the five nearest to article 7 with cosines, nearest first; equal ones in any order."""
    found, true = list(found), cosines(rows)
    assert len({key for key, _ in found}) == 5
    np.testing.assert_allclose([cosine for _, cosine in found], [true[key] for key, _ in found], atol=1e-5)
    np.testing.assert_allclose([cosine for _, cosine in found], sorted(true.values())[:-6:-1], atol=1e-5)
    assert {key for key, _ in found} - set(range(20))  # the night before has only those


def of(table: Iterable[Mapping[str, Any]]) -> Pairs:
    return [(row["article_id"], row["cosine"]) for row in table]


def body(article: int) -> str:
    """Returns the text of an article."""
    return str(corpora.articles()[article]["body"])


@pytest.mark.full
def test_a_shard_without_rows_is_among_them(folder: Path) -> None:
    for name in (NEW, "int8", "binary", "chunks"):
        counts = [record["rows"] for record in records(folder / name)]
        assert 0 in counts
        assert sum(counts) > 40


def records(root: Path) -> list[dict[str, Any]]:
    dataset = Dataset(str(root))
    return list(dataset.records(dataset.shards()).to_pylist())


def test_spark(folder: Path, spark: Any, rows: dict[int, dict[str, Any]]) -> None:
    """Checks also that the schema that it prints is the page's."""
    names = page.run("Spark", folder)
    assert_nearest(of(names["rows"]), rows)
    for row in names["rows"]:
        told = corpora.articles()[row["article_id"]]
        assert row["body"] == told["body"]
        assert row["name"] == told["author"]["name"]
    older = {row["article_id"]: row["cosine"] for row in names["older"].collect()}
    assert older == pytest.approx(cosines(rows), abs=1e-5)
    joined = {row["article_id"]: row["embedding"] for row in names["table"].to_pylist()}
    assert {key for key, vector in joined.items() if vector is None} == set(corpora.UNTITLED)
    assert {key: vector for key, vector in joined.items() if vector} == {
        key: row["embedding"] for key, row in rows.items()
    }
    for column in ("published", "edited", "author", "text_hash", "source_file", "source_row", "n_tokens"):
        found = names["frame"].select("article_id", column).toArrow().to_pylist()
        assert {row["article_id"]: row[column] for row in found} == {
            key: row[column] for key, row in rows.items()
        }


def test_duckdb(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    nearest = page.run("DuckDB", folder)["answers"][-1]
    assert_nearest(of(nearest), rows)
    for row in nearest:
        assert row["body"] == body(row["article_id"])
        assert row["published"] == rows[row["article_id"]]["published"]
        assert row["name"] == rows[row["article_id"]]["author"]["name"]


def test_polars(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    names = page.run("Polars", folder)
    assert_nearest(of(names["nearest"].to_dicts()), rows)
    assert names["frame"].collect_schema()["embedding"] == pl.Array(pl.Float32, 384)
    with chdir(folder):
        assert {row["article_id"]: row for row in names["frame"].collect().to_dicts()} == rows


def test_pandas(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    nearest = page.run("pandas", folder)["nearest"]
    assert_nearest(zip(nearest["article_id"], nearest["cosine"], strict=True), rows)
    assert list(nearest["body"]) == [body(key) for key in nearest["article_id"]]


def test_pyarrow(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    names = page.run("PyArrow", folder)
    assert_nearest([(key, cosine) for cosine, key in names["nearest"]], rows)
    assert names["shards"].schema.field("embedding").type == pa.list_(pa.float32(), 384)


def test_faiss(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    names = page.run("FAISS", folder)
    assert_nearest(names["nearest"], rows)
    assert names["index"].ntotal == len(rows)


def test_hugging_face_datasets(
    folder: Path, rows: dict[int, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    names = page.run("Hugging Face datasets", folder)
    nearest = names["nearest"]
    assert_nearest(zip(nearest["article_id"], nearest["cosine"], strict=True), rows)
    found = {row["article_id"]: row for row in names["rows"].with_format(None)}
    assert found == rows
    stream = names["load_dataset"](
        "parquet", data_files=f"{folder}/{NEW}/data/*.parquet", split="train", batch_size=10, streaming=True
    )
    assert {row["article_id"]: row for row in stream} == rows


def test_a_question(folder: Path) -> None:
    nearest = page.run("A vector for a question", folder)["nearest"]
    assert len(nearest) == 5
    assert all("a violin" in text for text in nearest["body"])


def test_windows(folder: Path, spark: Any) -> None:
    """Both engines cut as Python does, even after letters beyond 16 bits, and rank the same windows first."""
    names = page.run("Windows of long texts", folder)
    windows = read_dataset(folder / "chunks").to_pylist()
    query = next(row["embedding"] for row in windows if (row["article_id"], row["chunk"]) == (7, 0))
    best: dict[int, float] = {}
    cut: dict[int, set[str]] = {}
    for row in windows:
        key, text = row["article_id"], body(row["article_id"])
        cut.setdefault(key, set()).add(text[row["char_start"] : row["char_stop"]])
        best[key] = max(best.get(key, -1), float(np.dot(row["embedding"], query)))
    assert len(windows) > len(cut) == 50
    assert any("𐍈" in text for texts in cut.values() for text in texts)
    for nearest in (names["nearest"], names["answers"][0]):
        assert len(nearest) == 5
        for row, cosine in zip(nearest, sorted(best.values(), reverse=True), strict=False):
            assert row["cosine"] == pytest.approx(cosine, abs=1e-5)
            assert row["cosine"] == pytest.approx(best[row["article_id"]], abs=1e-5)
            assert row["window"] in cut[row["article_id"]]


def test_int8(folder: Path, spark: Any, rows: dict[int, dict[str, Any]]) -> None:
    """Every engine restores the same floats, each within half a scale of the float32 dataset's."""
    names = page.run("Vectors of int8", folder)
    small = pl.read_parquet(f"{folder}/int8/data/*.parquet")
    halves = dict(zip(small["article_id"], small["embedding_scale"] / 2, strict=True))
    in_numpy = dict(zip(small["article_id"], names["in_numpy"], strict=True))
    in_spark = {row["article_id"]: row["embedding"] for row in names["in_spark"].to_pylist()}
    in_duckdb = {row["article_id"]: row["embedding"] for row in names["answers"][0]}
    for found in (in_numpy, in_spark, in_duckdb):
        assert found.keys() == rows.keys()
        for key, row in rows.items():
            assert np.abs(np.array(found[key]) - row["embedding"]).max() <= halves[key] * 1.001


def test_bits(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    names = page.run("Vectors of bits", folder)
    signs = {key: np.array(row["embedding"]) > 0 for key, row in rows.items()}
    true = {key: int((bits != signs[7]).sum()) for key, bits in signs.items()}
    in_duckdb = [(row["article_id"], row["distance"]) for row in names["answers"][0]]
    for found in (in_duckdb, names["nearest"]):
        assert [distance for _, distance in found] == sorted(true.values())[:5]
        assert all(true[key] == distance for key, distance in found)


def test_labels(folder: Path, spark: Any) -> None:
    names = page.run("Labels and scores", folder)
    rows = read_dataset(folder / "classes").to_pylist()
    surest: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["label"] not in surest or row["score"] > surest[row["label"]]["score"]:
            surest[row["label"]] = row
    told = [row["label"] for row in rows]
    wanted = [
        {"label": label, "articles": told.count(label), "surest": surest[label]["article_id"]}
        for label in sorted(surest)
    ]
    assert [row.asDict() for row in names["in_spark"]] == wanted
    assert names["answers"][0] == wanted
    assert names["in_polars"].to_dicts() == wanted
    sport = dict(names["sport"].iter_rows())
    assert sport == {row["article_id"]: row["scores"][1] for row in rows}


def test_entities(folder: Path, spark: Any) -> None:
    """Every engine finds the same entities, and cuts the same text at their places."""
    names = page.run("Entities and tokens", folder)
    rows = read_dataset(folder / "entities").to_pylist()
    found = [(row["article_id"], each) for row in rows for each in row["entities"]]
    wanted = [
        {
            "label": label,
            "entities": sum(each["label"] == label for _, each in found),
            "articles": len({key for key, each in found if each["label"] == label}),
        }
        for label in sorted({each["label"] for _, each in found})
    ]
    by_label, cut = names["answers"]
    assert by_label == wanted
    assert [row.asDict() for row in names["in_spark"]] == wanted
    assert names["in_polars"].to_dicts() == wanted
    texts = [
        {
            "article_id": key,
            "label": each["label"],
            "found": body(key)[each["char_start"] : each["char_stop"]],
        }
        for key, each in sorted(found, key=lambda pair: (pair[0], pair[1]["char_start"]))
    ]
    assert cut == texts
    vectors = np.array([token["embedding"] for row in rows for token in row["tokens"]])
    np.testing.assert_array_equal(np.sort(names["vectors"], axis=0), np.sort(vectors, axis=0))


def test_object_storage(bucket: None, httpfs: None, folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    names = page.run("On object storage", folder)
    for found in (names["with_pyarrow"], names["with_polars"].to_arrow(), names["with_duckdb"]):
        assert {row["article_id"]: row for row in found.to_pylist()} == rows


@pytest.mark.full
def test_a_classifier_knows_packages_by_their_docstrings(demo: Path) -> None:
    """The classifier is far above the baseline, as the page says, and not with the vectors of other texts."""
    names = page.run("What embeddings are for: a classifier", demo)
    table = re.findall(r"^\| .* \| (0\.\d{3}) \| (0\.\d{3}) \|$", page.TEXT, re.M)
    told_baseline, told = np.array(table, float)
    baseline, found = names["scores"].values()
    print("baseline", baseline, "logistic regression", found)
    np.testing.assert_allclose(baseline, told_baseline, atol=0.03)
    np.testing.assert_allclose(found, told, atol=0.05)  # other versions of Python have other docstrings
    assert min(found) > baseline[0] + 0.4

    strangers = np.random.default_rng(0).permutation(names["seen"])
    misled = names["model"].fit(strangers, names["seen_labels"])
    assert misled.score(names["held_out"], names["true_labels"]) < baseline[0] + 0.1


def test_whoever_opens_the_root_gets_no_vectors(folder: Path, spark: Any) -> None:
    """DuckDB reads manifest and plan without a message; the others report an error."""
    root = str(folder / NEW)
    columns = duckdb.sql(f"FROM '{root}/*.parquet'").columns
    assert "split_id" in columns
    assert "embedding" not in columns
    with pytest.raises(Exception, match=r"CANNOT_READ_FILE_FOOTER.*dataset\.json"):  # Java's, through py4j
        spark.read.parquet(root)
    with pytest.raises(pl.exceptions.InvalidOperationError, match="different file extensions"):
        pl.scan_parquet(root).collect()
    with pytest.raises(pa.ArrowInvalid, match="Could not open Parquet"):
        pd.read_parquet(root)
    with pytest.raises(pa.ArrowInvalid, match="Could not open Parquet"):
        ds.dataset(root).to_table()


def test_the_page_names_the_versions_that_it_was_run_with() -> None:
    engines = "Spark|DuckDB|Polars|pandas|PyArrow|FAISS|datasets|scikit-learn"
    told = dict(re.findall(rf"({engines})\s+(\d[\d.]*\d)", page.TEXT.partition("```")[0]))
    packages = {"Spark": "pyspark", "FAISS": "faiss-cpu"}
    assert len(told) == 8
    assert told == {name: version(packages.get(name, name.lower())) for name in told}


def test_every_section_with_code_is_run_by_a_test() -> None:
    run = re.findall(r'page\.run\("(.+?)"', Path(__file__).read_text())
    assert sorted(run) == sorted(page.sections())
