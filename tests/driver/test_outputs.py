"""Tests jobs that keep more of a text than its vector."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ExitCode
from pipeline.operate.status import standing
from pipeline.verify import verify
from tests.conftest import read_dataset, texts, write_config
from tests.driver import test_reuse as reuse
from tests.driver.test_run import embed
from tests.model.test_encoder import encode
from tests.model.test_heads import scores_of
from tests.models_with_heads import change_config, with_classes
from tests.planted import Planted, replaced

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]
LABELS = ["good", "bad", "ugly"]
BOTH = ["embedding", "classification"]
MULTI = {"problem_type": "multi_label_classification"}
REGRESSION = {"problem_type": "regression"}


def deep(root: Path) -> list[str]:
    """Audits a dataset, with all its rows embedded again."""
    config = parse_config(json.loads((root / "dataset.json").read_text())["config"])
    return [str(finding) for finding in verify.verify(str(root), 1.0, config).findings]


def audited(planted: Planted) -> list[str]:
    return [str(finding) for finding in verify.verify(str(planted.root)).findings]


def test_a_job_with_vectors_and_classes(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = with_classes(tmp_path / "model", LABELS)
    values = job(model={"name": str(model), "outputs": ["classification", "embedding"]})
    ending = embed(values)
    assert ending.code == ExitCode.DONE
    root = tmp_path / "out"
    table = read_dataset(root)
    wanted = scores_of(model, texts(60), 512)
    found = np.stack(table["scores"].to_pylist())
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert table["label"].to_pylist() == [LABELS[at] for at in wanted.argmax(axis=1)]
    np.testing.assert_allclose(table["score"].to_numpy(), wanted.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(np.stack(table["embedding"].to_pylist()), encode(model, texts(60)), atol=1e-5)
    # The labels stand in dataset.json and in each footer, and are counted.
    assert json.loads((root / "dataset.json").read_text())["labels"] == {"classification": LABELS}
    [first, *_] = (root / "data").glob("*.parquet")
    assert json.loads(pq.read_schema(first).metadata[b"pipeline.labels"]) == {"classification": LABELS}
    counted = {label: table["label"].to_pylist().count(label) for label in LABELS}
    by_number = dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))
    by_number = {label: rows for label, rows in by_number.items() if rows}
    assert ending.summary["labels"] == {"classification": by_number}
    assert standing(Dataset(str(root))).fields()["labels"] == {"classification": by_number}
    page = (root / "report.html").read_text()
    assert "Labels: classification" in page
    assert deep(root) == []
    config = str(write_config(tmp_path / "job.json", values))
    assert cli.main(["status", config]) == ExitCode.DONE
    assert "labels" in capsys.readouterr().out
    assert cli.main(["plan", config]) == ExitCode.DONE
    assert cli.main(["search", config, "memory", "--json"]) == ExitCode.DONE
    hits = capsys.readouterr().out
    assert '"label"' in hits
    assert '"embedding"' not in hits


@pytest.mark.parametrize(("labels", "config"), [(LABELS, MULTI), (["value"], REGRESSION)])
def test_a_job_with_classes_alone(
    job: Job, tmp_path: Path, labels: list[str], config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_classes(tmp_path / "model", labels, **config)
    values = job(model={"name": str(model), "outputs": ["classification"]})
    if len(labels) > 1:
        values["model"]["threshold"] = 0.4
    assert embed(values).code == ExitCode.DONE
    table, wanted = read_dataset(tmp_path / "out"), scores_of(model, texts(60), 512)
    assert "embedding" not in table.column_names
    np.testing.assert_allclose(table["score"].to_numpy(), wanted.max(axis=1), atol=1e-5)
    if len(labels) > 1:
        assert table["label"].to_pylist() == [
            [label for label, score in zip(labels, row, strict=True) if score > 0.4] for row in wanted
        ]
    else:
        assert not {"label", "scores"} & set(table.column_names)
    assert deep(tmp_path / "out") == []
    config_file = str(write_config(tmp_path / "job.json", values))
    assert cli.main(["plan", config_file]) == ExitCode.DONE
    assert cli.main(["search", config_file, "memory"]) == ExitCode.CONFIG
    assert "model.outputs: has no vectors to search in (got classification)" in capsys.readouterr().err


def test_each_window_has_its_classes(job: Job, tmp_path: Path) -> None:
    model = with_classes(tmp_path / "model", LABELS)
    chunks = {"long_text": "chunks", "max_tokens": 12, "chunk_overlap": 2}
    assert embed(job(model={"name": str(model), "outputs": BOTH, **chunks})).code == ExitCode.DONE
    table = read_dataset(tmp_path / "out")
    assert table.num_rows > 60
    parts = [texts(60)[row["key"]][row["char_start"] : row["char_stop"]] for row in table.to_pylist()]
    np.testing.assert_allclose(np.stack(table["scores"].to_pylist()), scores_of(model, parts, 12), atol=1e-5)
    assert deep(tmp_path / "out") == []


@pytest.mark.parametrize("match", ["file", "dataset"])
def test_a_night_reuses_every_output(job: Job, corpus: Path, tmp_path: Path, match: str) -> None:
    model = with_classes(tmp_path / "model", LABELS, **MULTI)
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
    ours, full = reuse.dataset(tmp_path, 1), tmp_path / "full"
    alone = values | {"reuse": {}, "output": values["output"] | {"path": str(full)}}
    assert reuse.embed(alone).code == ExitCode.DONE
    ours, wanted = read_dataset(ours), read_dataset(full)
    for name in ours.column_names:
        if name in ("embedding", "score", "scores"):
            pair = (np.stack(each[name].to_pylist()) for each in (ours, wanted))
            np.testing.assert_allclose(*pair, atol=1e-5)
        else:
            assert ours[name].equals(wanted[name]), name
    assert deep(reuse.dataset(tmp_path, 1)) == []


def test_damage_of_classes_is_found(job: Job, tmp_path: Path) -> None:
    model = with_classes(tmp_path / "model", LABELS)
    assert embed(job(model={"name": str(model), "outputs": ["classification"]})).code == ExitCode.DONE
    right = read_dataset(tmp_path / "out")["scores"].to_pylist()[0]
    low = [score / 2 for score in right]
    cases: list[tuple[str, Any, str]] = [
        ("scores", [2.0, -1.0, 0.0], "have scores that are not between 0 and 1"),
        ("scores", low, "have scores whose sum is not 1"),
        ("score", 0.01, "have a score that is not the greatest of their scores"),
        ("scores", [right[2], right[0], right[1]], "have a label that is not that of their scores"),
        ("scores", [float("nan")] * 3, "have scores that are NaN or infinity"),
    ]
    for number, (name, value, message) in enumerate(cases):
        planted = Planted(Path(shutil.copytree(tmp_path / "out", tmp_path / f"copy{number}")))
        shard = planted.shards[0]
        planted.rewrite(shard, lambda table, name=name, value=value: replaced(table, name, 0, value))
        assert any(line.startswith("outputs: ") and message in line for line in audited(planted)), message
    planted = Planted(Path(shutil.copytree(tmp_path / "out", tmp_path / "labels")))
    shard = pq.read_table(planted.shards[0])
    shard = shard.replace_schema_metadata(shard.schema.metadata | {b"pipeline.labels": b"{}"})
    pq.write_table(shard, planted.shards[0])
    assert any("pipeline.labels are not the labels of dataset.json" in line for line in audited(planted))
    # Only a comparison with the text finds the scores of another text.
    planted = Planted(Path(shutil.copytree(tmp_path / "out", tmp_path / "other")))

    def turned(table: pa.Table) -> pa.Table:
        rows = table.num_rows
        for name in ("label", "score", "scores"):
            at, field = table.column_names.index(name), table.schema.field(name)
            turned_ = table[name].take(pa.array(range(rows - 1, -1, -1)))
            table = table.set_column(at, field, turned_)
        return table

    planted.rewrite(planted.shards[0], turned)
    assert audited(planted) == []
    assert any("have other scores than their text" in line for line in deep(planted.root))


ASKED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown output": ({"outputs": ["sentiment"]}, {}, "model.outputs.0 = 'sentiment'"),
    "no output": ({"outputs": []}, {}, "model.outputs"),
    "one output twice": ({"outputs": ["embedding", "embedding"]}, {}, "embedding is there twice"),
    "the mean of windows": (
        {"outputs": BOTH, "long_text": "mean_of_chunks"}, {}, "classification has no mean of windows",
    ),
    "a threshold for nothing": ({"threshold": 0.3}, {}, "means nothing without the output classification"),
    "a threshold for one label": ({"outputs": BOTH, "threshold": 0.3}, {}, "means nothing to this head"),
    "no head": (
        {"outputs": BOTH}, {"architectures": ["AlbertModel"]}, "has no head for the output classification",
    ),
    "no architecture": ({"outputs": BOTH}, {"architectures": None}, "architectures None"),
    "another num_labels": ({"outputs": BOTH}, {"num_labels": 5}, "num_labels does not fit (got 5, and 3"),
    "another number of labels": (
        {"outputs": BOTH}, {"id2label": {"0": "a", "1": "b"}}, "head for classification are of another shape",
    ),
    "labels with gaps": (
        {"outputs": BOTH}, {"id2label": {"0": "a", "2": "b", "3": "c"}}, "id2label does not name the labels",
    ),
    "an unknown problem": ({"outputs": BOTH}, {"problem_type": "ranking"}, "problem_type is unknown"),
    "a regression with labels": ({"outputs": BOTH}, REGRESSION, "does not fit the number of labels"),
}  # fmt: skip


def test_what_a_checkpoint_can_not_give_is_refused_in_one_line(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = with_classes(tmp_path / "made", LABELS)
    capsys.readouterr()
    for number, (name, (asked, changed, message)) in enumerate(ASKED.items()):
        model = change_config(Path(shutil.copytree(made, tmp_path / f"model{number}")), **changed)
        values = job(model={"name": str(model), **asked})
        config = write_config(tmp_path / "job.json", values)
        assert cli.main(["plan", str(config), "--quiet"]) == ExitCode.CONFIG, name
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, (name, lines)
        assert lines[0].startswith("exit 2: "), name
        assert message in lines[0], (name, lines)


def test_a_head_without_its_weights_is_refused_with_their_names(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    model = with_classes(tmp_path / "model", LABELS)
    weights = load_file(model / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, model / "model.safetensors")
    config = write_config(tmp_path / "job.json", job(model={"name": str(model), "outputs": BOTH}))
    capsys.readouterr()
    assert cli.main(["plan", str(config), "--quiet"]) == ExitCode.CONFIG
    [line] = capsys.readouterr().err.splitlines()
    assert "weights of the head for classification are missing (got pooler.weight, pooler.bias)" in line
