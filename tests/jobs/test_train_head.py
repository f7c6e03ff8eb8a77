"""Tests a head that is trained on a dataset's vectors, and then labels a corpus."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from jobs.train_head import main, train
from pipeline import cli
from pipeline.config.load import parse_config
from pipeline.errors import ExitCode
from pipeline.model import trained_head
from pipeline.verify import verify
from tests.conftest import read_dataset, write_config
from tests.driver.test_run import embed

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]
ROOT = Path(__file__).parents[2]
WORDS = {"sea": "wave harbour sail tide", "wood": "oak moss path leaf", "town": "tram square shop tower"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Writes 240 documents with one of three topics; four have none."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    keys = range(240)
    topics = [None if key < 4 else list(WORDS)[key % 3] for key in keys]
    words = [WORDS[topic or "sea"].split() for topic in topics]
    texts = [
        f"{own[key % 4]} and {own[key // 4 % 4]}, number {key}" for key, own in zip(keys, words, strict=True)
    ]
    pq.write_table(pa.table({"key": list(keys), "text": texts, "topic": topics}), folder / "0.parquet")
    return folder


def labelled(values: dict[str, Any], folder: Path, head: Path, **model: Any) -> dict[str, Any]:
    """Returns the config of a job that gives each text the label of a head."""
    outputs = {"outputs": ["embedding", "classification"], "head": str(head)}
    return values | {
        "model": values["model"] | outputs | model,
        "output": values["output"] | {"path": str(folder)},
    }


@pytest.mark.parametrize(("topics", "vector"), [(3, "float32"), (2, "int8")])
def test_a_head_labels_a_corpus_as_it_was_tested(
    job: Job, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], topics: int, vector: str
) -> None:
    if topics == 2:
        table = pq.read_table(corpus / "0.parquet")
        two = [None if topic == "town" else topic for topic in table["topic"].to_pylist()]
        pq.write_table(table.set_column(2, "topic", pa.array(two)), corpus / "0.parquet")
    values, head = job(model={"vector": vector}), tmp_path / "head"
    assert embed(values).code == ExitCode.DONE
    said = train(str(tmp_path / "out"), "topic", str(head), held_out=0.3)
    assert main([str(tmp_path / "out"), "--label", "topic", "--output", str(head), "--held-out", "0.3"]) == 0
    printed = capsys.readouterr().out
    assert f"accuracy {said.accuracy:.4f}; always the most frequent label: {said.majority:.4f}" in printed
    assert said.accuracy > said.majority

    assert embed(labelled(values, tmp_path / "labelled", head)).code == ExitCode.DONE
    table = read_dataset(tmp_path / "labelled")
    found = trained_head.read(str(head))
    assert found.labels == tuple(sorted(WORDS)[:topics] if topics == 3 else ("sea", "wood"))
    vectors_ND = np.stack(read_dataset(tmp_path / "out")["embedding"].to_pylist()).astype(np.float64)
    if vector == "float32":
        logits_NL = vectors_ND @ found.weight.T + found.bias
        wanted_NL = np.exp(logits_NL) / np.exp(logits_NL).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(np.stack(table["scores"].to_pylist()), wanted_NL, atol=1e-4)
    hashes = [int.from_bytes(each[:8], "big") / 2**64 for each in table["text_hash"].to_pylist()]
    tested = [
        (topic, label)
        for topic, label, place in zip(
            table["topic"].to_pylist(), table["label"].to_pylist(), hashes, strict=True
        )
        if topic is not None and place < 0.3
    ]
    assert np.mean([topic == label for topic, label in tested]) == pytest.approx(said.accuracy, abs=0.02)
    assert len(tested) == said.confusion.to_numpy().sum()
    root = tmp_path / "labelled"
    config = parse_config(json.loads((root / "dataset.json").read_text())["config"])
    assert verify.verify(str(root), 1.0, config).findings == []
    assert cli.main(["plan", str(write_config(tmp_path / "job.json", labelled(values, root, head)))]) == 0


def test_two_labels_have_the_probabilities_of_the_regression(tmp_path: Path) -> None:
    from jobs.train_head import _layer

    chance = np.random.default_rng(0)
    vectors_ND, labels_N = chance.normal(size=(60, 4)), np.where(chance.random(60) < 0.5, "a", "b")
    found = LogisticRegression().fit(vectors_ND, labels_N)
    weight_LD, bias_L = _layer(found)
    logits_NL = vectors_ND @ weight_LD.T + bias_L
    ours_NL = np.exp(logits_NL) / np.exp(logits_NL).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours_NL, found.predict_proba(vectors_ND), atol=1e-6)


def test_other_weights_are_other_vectors(job: Job, corpus: Path, tmp_path: Path) -> None:
    values, head = job(), tmp_path / "head"
    embed(values)
    main([str(tmp_path / "out"), "--label", "topic", "--output", str(head)])
    embed(labelled(values, tmp_path / "labelled", head))
    before = json.loads((tmp_path / "labelled/dataset.json").read_text())
    assert before["vector_fields"]["model.head"] == trained_head.read(str(head)).digest
    main([str(tmp_path / "out"), "--label", "topic", "--output", str(head), "--held-out", "0.5"])
    config = write_config(tmp_path / "job.json", labelled(values, tmp_path / "labelled", head))
    assert cli.main(["run", str(config)]) == ExitCode.OTHER_DATASET


REFUSED = [
    (
        ["--label", "colour"],
        ExitCode.CONFIG,
        "has no such column (got colour); carry it (source.NAME.carry); there are",
    ),
    (["--label", "key"], ExitCode.CONFIG, "too few texts"),
    (["--label", "n_tokens", "--held-out", "1.0"], ExitCode.CONFIG, "too few texts to learn from"),
    (
        ["--label", "truncated"],
        ExitCode.CONFIG,
        "truncated: is not a column of labels (got 1 different values)",
    ),
    (["--label", "embedding"], ExitCode.CONFIG, "is not a column of labels (got fixed_size_list<"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), REFUSED)
def test_what_teaches_nothing_is_refused(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: ExitCode, says: str,
) -> None:  # fmt: skip
    embed(job())
    assert main([str(tmp_path / "out"), "--output", str(tmp_path / "head"), *arguments]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "head").exists()


def test_what_is_no_dataset_of_vectors_is_refused(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--label", "topic", "--output", str(tmp_path / "head")]
    assert main([str(tmp_path / "nowhere"), *told]) == ExitCode.CONFIG
    assert "no dataset here" in capsys.readouterr().err
    embed(job(model={"vector": "binary"}))
    assert main([str(tmp_path / "out"), *told]) == ExitCode.CONFIG
    assert "has only one bit of each number of a vector" in capsys.readouterr().err
    (tmp_path / "out/data/_SUCCESS").unlink()
    assert main([str(tmp_path / "out"), *told]) == ExitCode.INCOMPLETE
    assert "is not complete" in capsys.readouterr().err


def test_the_example_of_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs the commands of docs/heads.md over a small source of the same columns."""
    [block, *_] = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/heads.md").read_text(), re.S)
    fetches, *commands = block.splitlines()
    assert fetches == "python -m benchmarks.sentiment --corpus .reviews"
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / ".reviews/source").mkdir(parents=True)
    said = {"positive": "a joy to watch, fresh and moving", "negative": "dull, too long, a waste of time"}
    rows = [
        {"id": key, "text": f"{text}, take {key}", "sentiment": label}
        for key, (label, text) in enumerate([*said.items()] * 60)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / ".reviews/source/0.parquet")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        _, _, module, *arguments = shlex.split(command)
        assert {"pipeline": cli.main, "jobs.train_head": main}[module](arguments) == ExitCode.DONE
    assert "accuracy 1.0000; always the most frequent label: 0.5" in capsys.readouterr().out
    table = read_dataset(tmp_path / ".reviews/labelled")
    assert table["label"].to_pylist() == table["sentiment"].to_pylist()
