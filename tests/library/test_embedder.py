"""Checks that the library gives the vectors of a job, and says what is wrong as a config does."""

import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import pipeline
from pipeline.config.load import parse_config
from pipeline.driver.run import run
from pipeline.errors import ConfigError, ExitCode, ModelError
from tests.conftest import read_dataset, texts
from tests.models_with_heads import with_classes

Job = Callable[..., dict[str, Any]]
here = pytest.mark.parametrize("flow", ["here"], indirect=True)


def test_importing_the_package_imports_nothing_else() -> None:
    code = """
import sys
import pipeline
names = list(pipeline.__all__)
heavy = {"torch", "ray", "transformers", "pyspark", "pyarrow", "numpy"}
loaded = heavy & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
for name in names:
    getattr(pipeline, name)
loaded = [name for name in ("torch", "ray", "transformers", "pyspark") if name in sys.modules]
assert not loaded, loaded
assert set(names) <= set(dir(pipeline))
try:
    pipeline.other
except AttributeError:
    print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr


@here
def test_vectors_are_those_of_a_job(job: Job, tiny: Path, flow: None) -> None:
    values = job(output={"rows_per_shard": 100})
    run(parse_config(values), quiet=True)
    rows = read_dataset(values["output"]["path"])
    wanted = np.array(rows.column("embedding").to_pylist(), np.float32)
    with pipeline.Embedder(str(tiny)) as embedder:
        found = embedder.embed(texts(60))
        assert np.abs(found - wanted).max() < 1e-6
        column = embedder.table(texts(60)).column("embedding")
    assert column.type == rows.schema.field("embedding").type
    assert np.array_equal(np.array(column.to_pylist(), np.float32), found)


@here
def test_means_of_windows_are_those_of_a_job(job: Job, tiny: Path, flow: None) -> None:
    model = {"long_text": "mean_of_chunks", "max_tokens": 8, "prefix": "of: ", "vector": "int8"}
    values = job(output={"rows_per_shard": 100}, model={"name": str(tiny), **model})
    run(parse_config(values), quiet=True)
    rows = read_dataset(values["output"]["path"])
    found = pipeline.Embedder(str(tiny), **model).table(texts(60))
    for name in ("embedding", "embedding_scale"):
        assert found.column(name).to_pylist() == rows.column(name).to_pylist()


def test_a_text_that_a_job_would_reject_costs_no_other(tiny: Path) -> None:
    some = ["one", None, "two", " \u200b", "half \ud800", "three", ""]
    embedder = pipeline.Embedder(str(tiny))
    vectors, table = embedder.embed(some), embedder.table(some)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False, True, True, False, True]
    assert table.column("reject").to_pylist() == [
        None, "null", None, "blank", "invalid_utf8", None, "blank",
    ]  # fmt: skip
    assert [row is None for row in table.column("embedding").to_pylist()] == np.isnan(vectors[:, 0]).tolist()
    assert np.array_equal(vectors[[0, 2, 5]], embedder.embed(["one", "two", "three"]))
    assert embedder.embed([]).shape == (0, 16)
    assert embedder.table([]).num_rows == 0


def test_numbers_that_are_not_finite_are_rejected(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = pipeline.Embedder(str(tiny))
    encoded = embedder._encoder.run

    def broken(tokens: Any) -> Any:
        found = encoded(tokens)
        found.values[1], found.values[2] = np.inf, np.nan
        found.too_large[2] = True
        return found

    monkeypatch.setattr(embedder._encoder, "run", broken)
    table = embedder.table(["one", "", "two", "three", "four"])
    assert table.column("reject").to_pylist() == [None, "blank", "non_finite_vector", "out_of_memory", None]


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        iter,
        np.array,
        pd.Series,
        lambda some: pa.array(some, pa.large_string()),
        lambda some: pa.chunked_array([some[:1], some[1:]]),
        lambda some: pa.array(some).dictionary_encode(),
        lambda some: pa.array(some).cast(pa.string_view()),
    ],
)
def test_texts_come_in_many_kinds(kind: Any, tiny: Path) -> None:
    some = ["one", "two words", "one"]
    embedder = pipeline.Embedder(str(tiny))
    assert np.array_equal(embedder.embed(kind(some)), embedder.embed(some))


def test_classes_stand_beside_vectors(tmp_path: Path) -> None:
    folder = str(with_classes(tmp_path / "classes", ["news", "sport"]))
    both = pipeline.Embedder(folder, outputs=["embedding", "classification"]).table(["one", None])
    assert both.column_names == ["embedding", "label", "score", "scores", "reject"]
    alone = pipeline.Embedder(folder, outputs=["classification"])
    assert alone.table(["one"]).column("label")[0].as_py() == both.column("label")[0].as_py()
    with pytest.raises(ConfigError, match="outputs: has no vectors .*classification.*; add embedding"):
        alone.embed(["one"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "median"}, "Embedder: pooling = 'median': "),
        ({"prefx": "x"}, "Embedder: prefx .a text.: unknown key; did you mean prefix"),
        ({"device": "tpu"}, "Embedder: device = 'tpu'"),
        ({"threads": 0, "device": "cpu"}, "Embedder: threads_per_replica = 0"),
        ({"dtype": "bfloat16"}, "Embedder: dtype bfloat16 needs device cuda; set float32 or auto"),
        ({"long_text": "chunks"}, "Embedder: long_text chunks gives a text several vectors; set truncate"),
        ({"truncate_dim": 0, "max_tokens": 1}, "Embedder: 2 mistakes:"),
    ],
)
def test_mistakes_are_told_as_those_of_a_config(settings: dict[str, Any], message: str, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline.Embedder(str(tiny), **settings)


def test_what_is_not_a_list_of_texts_is_refused(tiny: Path) -> None:
    embedder = pipeline.Embedder(str(tiny))
    for wrong, message in (
        ("one", "is one text .got str.; pass a list"),
        ([1, 2], "are not texts .got int64"),
        (["one", 2], "are not texts"),
        (["half \ud800", 2], "are not texts"),
        ([b"one"], "are not texts .got binary"),
    ):
        with pytest.raises(ConfigError, match=message):
            embedder.embed(wrong)
    embedder.close()
    with pytest.raises(ConfigError, match="Embedder: is closed; make another one"):
        embedder.embed(["one"])


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ModelError, match="/nowhere"):
        pipeline.Embedder("/nowhere")


@here
def test_a_job_runs_from_python(job: Job, tmp_path: Path, flow: None) -> None:
    output = {"path": str(tmp_path / "nights" / "{run_date}")}
    ending = pipeline.run(job(output=output), run_date=datetime.date(2026, 11, 25))
    assert isinstance(ending, pipeline.RunResult)
    assert ending.code == pipeline.ExitCode.DONE
    assert ending.output == str(tmp_path / "nights" / "2026-11-25")
    assert ending.summary["rows"] == 60
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job()))
    assert pipeline.run(path).code == ExitCode.DONE
    with pytest.raises(pipeline.PipelineError, match="no such config file") as caught:
        pipeline.run(tmp_path / "none.yaml")
    assert caught.value.exit_code == ExitCode.CONFIG
