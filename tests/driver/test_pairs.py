"""Tests jobs over pairs of texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import pipeline as transformers_pipeline

from pipeline import cli
from pipeline.errors import ExitCode
from tests.conftest import read_dataset, write_config
from tests.driver import test_reuse as reuse
from tests.driver.test_outputs import deep
from tests.driver.test_run import embed
from tests.models_with_heads import with_classes

pytestmark = pytest.mark.usefixtures("flow")
ROWS: list[tuple[Any, Any]] = [
    *((f"premise {number} naïve", f"hypothesis {number % 5} " * (number % 4 + 1)) for number in range(20)),
    ("premise 1 naïve", "another hypothesis"),
    (None, "no premise"),
    ("no hypothesis", None),
    ("a blank one", " \n"),
]
LABELS = ["entails", "neutral", "contradicts"]
BOTH = ["embedding", "classification"]


def write_rows(path: Path, rows: list[tuple[Any, Any]], kind: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if kind == "parquet":
        first, second = zip(*rows, strict=True)
        pq.write_table(pa.table({"key": range(len(rows)), "p": first, "h": second}), path)
    elif kind == "jsonl":
        lines = [json.dumps({"key": at, "p": p, "h": h}) for at, (p, h) in enumerate(rows)]
        path.write_text("\n".join(lines))
    else:
        cells = [[str(at), p or "", h or ""] for at, (p, h) in enumerate(rows)]
        quoted = [",".join(f'"{cell}"' for cell in line) for line in cells]
        path.write_text("\n".join(["key,p,h", *quoted]) + "\n")


def values(folder: Path, model: Path, kind: str = "parquet", **output: Any) -> dict[str, Any]:
    source = {"path": f"{folder}/pairs/*.{kind}", "text_column": "p", "text_pair_column": "h"}
    return {
        "source": {"pairs": {**source, "id_column": "key"}},
        "model": {"name": str(model), "outputs": BOTH, "max_tokens": 16},
        "output": {"path": str(folder / "out"), "rows_per_shard": 10, **output},
    }


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_job_over_pairs(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = with_classes(tmp_path / "model", LABELS)
    write_rows(tmp_path / f"pairs/0.{kind}", ROWS, kind)
    ending = embed(values(tmp_path, model, kind))
    assert ending.code == ExitCode.DONE, ending.reason
    assert sum(ending.summary["reject_reasons"].values()) == 3
    table = read_dataset(tmp_path / "out").sort_by("key")
    assert not {"p", "h"} & set(table.column_names)
    theirs = transformers_pipeline("text-classification", model=str(model), top_k=None)
    for row in table.to_pylist():
        first, second = ROWS[int(row["key"])]
        told = theirs({"text": first, "text_pair": second}, truncation=True, max_length=16)
        told = told[0] if isinstance(told[0], list) else told
        assert row["label"] == told[0]["label"]
        np.testing.assert_allclose(row["score"], told[0]["score"], atol=1e-5)
    hashes = table["text_hash"].to_pylist()
    assert hashes[1] != hashes[20]  # the same premise
    assert deep(tmp_path / "out") == []
    config = str(write_config(tmp_path / "job.json", values(tmp_path, model, kind)))
    assert cli.main(["search", config, "premise", "--quiet"]) == ExitCode.DONE
    assert "premise" in capsys.readouterr().out
    planned = ["plan", config, "--quiet", "--set", f"output.path={tmp_path}/other"]
    assert cli.main(planned) == ExitCode.DONE
    assert "3 rejected" in capsys.readouterr().out


def test_a_night_over_pairs_reuses_a_pair_only_if_both_texts_are_the_same(tmp_path: Path) -> None:
    model = with_classes(tmp_path / "model", LABELS)
    wanted = values(tmp_path, model, path=str(tmp_path / "series/{run_date}"))
    wanted["reuse"] = {"base": "latest"}
    write_rows(tmp_path / "pairs/0.parquet", ROWS[:20], "parquet")
    reuse.embed(wanted)
    changed = [(p, "changed") if at < 4 else (p, h) for at, (p, h) in enumerate(ROWS[:20])]
    write_rows(tmp_path / "pairs/0.parquet", changed, "parquet")
    ending = reuse.embed(wanted, 1)
    assert reuse.counts(ending) == {"copied": 0, "reused": 16, "embedded": 4, "rejects": 0}
    assert deep(reuse.dataset(tmp_path, 1)) == []


def test_what_can_not_be_asked_of_pairs_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_classes(tmp_path / "model", LABELS)
    write_rows(tmp_path / "pairs/0.parquet", ROWS, "parquet")
    one_type = with_classes(tmp_path / "one", LABELS, type_vocab_size=1)
    capsys.readouterr()
    cases: list[tuple[str, str]] = [
        ("source.pairs.text_pair_column=nothing", "has no second texts (got 'nothing': no such column)"),
        ("source.pairs.text_pair_column=key", "has no second texts (got 'key': int64)"),
        ("model.long_text=chunks", "has pairs of texts: set model.long_text to truncate"),
        ("model.name=albert-mini", "does not join two texts as [CLS] first [SEP] second [SEP]"),
        (f"model.name={one_type}", "can't read pairs of texts (got type_vocab_size 1)"),
    ]
    for override, message in cases:
        asked = values(tmp_path, model)
        asked["model"]["outputs"] = ["embedding"]
        config = write_config(tmp_path / "job.json", asked)
        assert cli.main(["plan", str(config), "--quiet", "--set", override]) == ExitCode.CONFIG, override
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, (override, lines)
        assert message in lines[0], (override, lines)
