"""Tests jobs that keep something of each token: entities, and the tokens themselves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ExitCode
from pipeline.operate.status import standing
from tests.conftest import read_dataset, texts, write_config
from tests.driver import test_reuse as reuse
from tests.driver.test_outputs import audited, deep
from tests.driver.test_run import embed
from tests.model.outputs.test_entities import assert_same, theirs_of
from tests.models_with_heads import change_config, with_tags
from tests.planted import Planted, replaced

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LABELS = {"entities": ["PER", "LOC"]}
BOTH = ["entities", "tokens"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return with_tags(tmp_path / "model", TAGS)


def test_a_job_with_entities_and_tokens(
    job: Job, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = job(model={"name": str(model), "outputs": ["tokens", "entities", "embedding"]})
    config = str(write_config(tmp_path / "job.json", values))
    assert cli.main(["plan", config]) == ExitCode.DONE
    told = " ".join(capsys.readouterr().out.split())
    assert "entities of 2 labels and 16 dimensions (float32) of each token" in told
    ending = embed(values)
    assert ending.code == ExitCode.DONE
    root = tmp_path / "out"
    table = read_dataset(root)
    assert [name for name in table.column_names if name in ("embedding", *BOTH)] == ["embedding", *BOTH]
    rows, theirs = table.to_pylist(), theirs_of(model, "simple", 512)
    for text, row in zip(texts(60), rows, strict=True):
        assert_same(row["entities"], theirs(text), text)
        assert len(row["tokens"]) == row["n_tokens"] - 2
        assert len(row["tokens"][0]["embedding"]) == 16
    # The labels stand in dataset.json and in each footer; the rows that have one are counted.
    assert json.loads((root / "dataset.json").read_text())["labels"] == LABELS
    [first, *_] = (root / "data").glob("*.parquet")
    assert json.loads(pq.read_schema(first).metadata[b"pipeline.labels"]) == LABELS
    having = {
        label: sum(label in {each["label"] for each in row["entities"]} for row in rows)
        for label in LABELS["entities"]
    }
    assert ending.summary["labels"]["entities"] == {label: count for label, count in having.items() if count}
    assert standing(Dataset(str(root))).fields()["labels"] == ending.summary["labels"]
    assert "Labels: entities" in (root / "report.html").read_text()
    assert audited(Planted(root)) == []
    assert deep(root) == []
    assert cli.main(["status", config]) == ExitCode.DONE
    assert "labels" in capsys.readouterr().out
    assert cli.main(["search", config, "memory", "--json"]) == ExitCode.DONE
    hits = capsys.readouterr().out
    assert '"char_start"' in hits  # of entities
    assert '"tokens"' not in hits
    # Each reader has the same numbers.
    per_row = [len(row["entities"]) for row in rows]
    data = f"{root}/data/*.parquet"
    in_duckdb = duckdb.sql(
        f"SELECT len(entities) AS n, len(tokens) AS m FROM '{data}' ORDER BY key"
    ).fetchall()
    assert in_duckdb == [(n, len(row["tokens"])) for n, row in zip(per_row, rows, strict=True)]
    in_polars = pl.read_parquet(data).sort("key")
    assert in_polars["entities"].list.len().to_list() == per_row
    first_row = in_polars["tokens"][0].struct.field("embedding").to_list()
    np.testing.assert_array_equal(first_row, [token["embedding"] for token in rows[0]["tokens"]])


def test_int8_in_windows(job: Job, model: Path, tmp_path: Path) -> None:
    """A window has places in the complete text, all of them within the window."""
    asked = {"long_text": "chunks", "max_tokens": 12, "chunk_overlap": 2, "vector": "int8"}
    assert embed(job(model={"name": str(model), "outputs": BOTH, **asked})).code == ExitCode.DONE
    table = read_dataset(tmp_path / "out")
    assert table.num_rows > 60
    theirs = theirs_of(model, "simple", 512)
    for row in table.to_pylist():
        start, text = row["char_start"], texts(60)[row["key"]]
        wanted = theirs(text[start : row["char_stop"]])
        moved = [{**each, "start": each["start"] + start, "end": each["end"] + start} for each in wanted]
        assert_same(row["entities"], moved, text)
        assert row["tokens"][0]["char_start"] == start
        assert row["tokens"][-1]["char_stop"] == start + len(text[start : row["char_stop"]].rstrip())
    assert audited(Planted(tmp_path / "out")) == []
    assert deep(tmp_path / "out") == []


def test_entities_of_all_windows_of_a_text(job: Job, model: Path, tmp_path: Path) -> None:
    """The vector of a text is the mean of its windows; its entities are those of all of them."""
    asked = {"long_text": "mean_of_chunks", "max_tokens": 12, "chunk_overlap": 4, "aggregation": "first"}
    outputs = ["embedding", "entities"]
    assert embed(job(model={"name": str(model), "outputs": outputs, **asked})).code == ExitCode.DONE
    table = read_dataset(tmp_path / "out")
    assert table.num_rows == 60
    stops = [max((each["char_stop"] for each in row["entities"]), default=0) for row in table.to_pylist()]
    assert max(stops) > 90  # beyond the first window
    assert audited(Planted(tmp_path / "out")) == []
    assert deep(tmp_path / "out") == []


@pytest.mark.parametrize("match", ["file", "dataset"])
def test_a_night_reuses_entities_and_tokens(
    job: Job, model: Path, corpus: Path, tmp_path: Path, match: str
) -> None:
    values = job(
        model={"name": str(model), "outputs": BOTH},
        output={"path": str(tmp_path / "series/{run_date}"), "rows_per_shard": 10},
        reuse={"base": "latest", "match": match},
    )
    reuse.embed(values)
    table = pq.read_table(corpus / "1.parquet")
    other = pa.array([*texts(5, 900), *table["text"].to_pylist()[5:]])
    pq.write_table(table.set_column(1, "text", other), corpus / "1.parquet")
    ending = reuse.embed(values, 1)
    assert reuse.counts(ending) == {"copied": 40, "reused": 15, "embedded": 5, "rejects": 0}
    full = tmp_path / "full"
    alone = values | {"reuse": {}, "output": values["output"] | {"path": str(full)}}
    assert reuse.embed(alone).code == ExitCode.DONE
    ours, wanted = read_dataset(reuse.dataset(tmp_path, 1)), read_dataset(full)
    assert ours.schema == wanted.schema
    for name in ours.column_names:
        if name not in BOTH:
            assert ours[name].equals(wanted[name]), name
            continue
        pair = [each[name].combine_chunks() for each in (ours, wanted)]
        assert pair[0].offsets.equals(pair[1].offsets)
        for field in pair[0].type.value_type:
            one, both = (each.flatten().field(field.name) for each in pair)
            if field.name in ("score", "embedding"):
                one, both = (each.flatten() if field.name == "embedding" else each for each in (one, both))
                np.testing.assert_allclose(one.to_numpy(), both.to_numpy(), atol=1e-5)
            else:
                assert one.equals(both), field.name
    assert deep(reuse.dataset(tmp_path, 1)) == []


def test_damage_of_entities_and_tokens_is_found(job: Job, tmp_path: Path) -> None:
    model = with_tags(tmp_path / "model", ["B-PER", "B-LOC", "B-ORG"])  # each token is an entity
    assert embed(job(model={"name": str(model), "outputs": BOTH})).code == ExitCode.DONE
    rows = read_dataset(tmp_path / "out").to_pylist()
    at, row = 3, rows[3]
    first, second, *others = row["entities"]
    token, *tokens = row["tokens"]
    cases: list[tuple[str, Any, str]] = [
        ("entities", [{**first, "label": "DOG"}], "have entities with a label that the model lacks"),
        ("entities", [{**first, "score": 1.5}], "have entities with a score that is not between 0 and 1"),
        ("entities", [{**first, "char_stop": -1}], "have entities outside their text"),
        ("entities", [second, first, *others], "have entities that are not in the order of their text"),
        ("entities", [first] * 99, "have more entities than tokens"),
        ("tokens", [{**token, "char_start": 9, "char_stop": 3}], "have tokens outside their text"),
        (
            "tokens",
            [{**token, "embedding": [float("nan")] * 16}, *tokens],
            "have tokens with NaN or infinity",
        ),
    ]
    for number, (name, value, message) in enumerate(cases):
        planted = Planted(Path(shutil.copytree(tmp_path / "out", tmp_path / f"copy{number}")))
        planted.rewrite(planted.shards[0], lambda t, name=name, value=value: replaced(t, name, at, value))
        assert any(line.startswith("outputs: ") and message in line for line in audited(planted)), message
    # Only a comparison with the text finds what could be right.
    moved = [{**first, "char_stop": first["char_stop"] + 1}, second, *others]
    for name, value in (("entities", moved), ("tokens", tokens)):
        planted = Planted(Path(shutil.copytree(tmp_path / "out", tmp_path / f"other {name}")))
        planted.rewrite(planted.shards[0], lambda t, name=name, value=value: replaced(t, name, at, value))
        assert audited(planted) == []
        assert any(f"have other {name} than their text" in line for line in deep(planted.root)), name


ASKED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no token head": (
        {"outputs": BOTH}, {"architectures": ["AlbertModel"]}, "has no head for the output entities",
    ),
    "the head of texts": (
        {"outputs": ["entities"]}, {"architectures": ["AlbertForSequenceClassification"]},
        "name a checkpoint whose config.json says AlbertForTokenClassification",
    ),
    "another num_labels": ({"outputs": BOTH}, {"num_labels": 3}, "num_labels does not fit (got 3, and 5"),
    "another number of tags": (
        {"outputs": BOTH}, {"id2label": {"0": "O", "1": "B-X"}}, "head for entities are of another shape",
    ),
    "an aggregation for nothing": (
        {"aggregation": "first"}, {}, "means nothing without the output entities",
    ),
    "an unknown aggregation": ({"outputs": BOTH, "aggregation": "max"}, {}, "model.aggregation = 'max'"),
    "the mean of windows": (
        {"outputs": ["tokens"], "long_text": "mean_of_chunks"}, {}, "tokens has no mean of windows",
    ),
    "tokens of bits": ({"outputs": ["tokens"], "vector": "binary"}, {}, "tokens has no vectors of bits"),
}  # fmt: skip


def refused(values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line with which `plan` refuses a config."""
    capsys.readouterr()
    config = write_config(tmp_path / "job.json", values)
    assert cli.main(["plan", str(config), "--quiet"]) == ExitCode.CONFIG
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("exit 2: ")
    return line


def test_what_a_checkpoint_can_not_give_is_refused_in_one_line(
    job: Job, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (name, (asked, changed, message)) in enumerate(ASKED.items()):
        other = change_config(Path(shutil.copytree(model, tmp_path / f"model{number}")), **changed)
        line = refused(job(model={"name": str(other), **asked}), tmp_path, capsys)
        assert message in line, (name, line)


def test_a_head_without_its_weights_is_refused_with_their_names(
    job: Job, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "classifier" not in k}, model / "model.safetensors")
    line = refused(job(model={"name": str(model), "outputs": BOTH}), tmp_path, capsys)
    assert "weights of the head for entities are missing (got classifier.weight, classifier.bias)" in line


def test_pairs_are_refused(job: Job, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = job(model={"name": str(model), "outputs": ["embedding", "tokens"]})
    values["source"]["docs"]["text_pair_column"] = "topic"
    values["source"]["docs"]["carry"] = []
    assert "tokens can't be kept of pairs of texts" in refused(values, tmp_path, capsys)
