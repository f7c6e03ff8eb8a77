"""Tests jobs whose sources have prefixes of their own: queries and passages of one retrieval model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.config.load import parse_config
from pipeline.dataset.identity import Identity
from pipeline.driver.run import run
from pipeline.errors import ConfigError, ExitCode, ModelError
from pipeline.estimate.estimate import forecast
from pipeline.model import checkpoint
from pipeline.verify import verify
from tests.conftest import read_dataset, texts

Job = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("flow")


@pytest.fixture
def sources(tmp_path: Path, job: Job) -> Callable[..., dict[str, Any]]:
    """Returns a function that makes a job over the same texts as questions and as answers."""
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"key": range(6), "text": texts(6)}), path)

    def make(questions: dict[str, Any], answers: dict[str, Any], **sections: Any) -> dict[str, Any]:
        columns = {"path": str(path), "id_column": "key"}
        return job(source={"questions": columns | questions, "answers": columns | answers}, **sections)

    return make


def embedded(values: dict[str, Any], name: str) -> tuple[np.ndarray[Any, Any], list[int]]:
    table = read_dataset(values["output"]["path"])
    rows = [row for row in table.to_pylist() if row["source_file"].startswith(f"{name}/")]
    return np.array([row["embedding"] for row in rows], np.float32), [row["n_tokens"] for row in rows]


def test_each_source_has_its_prefix(sources: Job, tiny: Path, tmp_path: Path) -> None:
    model = {"name": str(tiny), "prefix": "passage: "}
    values = sources({"prefix": "query: "}, {}, model=model)
    config = parse_config(values)
    planned = forecast(config)
    assert run(config, quiet=True).code == ExitCode.DONE
    embedder = pipeline.Embedder(**model)
    for name, prefix in (("questions", "query: "), ("answers", "passage: ")):
        found, tokens = embedded(values, name)
        wanted = embedder.embed(texts(6), prefix=prefix)
        assert np.abs(found - wanted).max() < 1e-5
        assert np.abs(wanted - embedder.embed([prefix + text for text in texts(6)], prefix="")).max() == 0
        (stratum,) = (each for each in planned.sample.strata if each.source == name)
        assert sorted(stratum.lengths) == sorted(tokens)
    report = verify.verify(str(tmp_path / "out"), 1.0, config)
    assert not report.findings


def test_windows_of_a_source_have_its_prefix(sources: Job, tiny: Path) -> None:
    model = {"name": str(tiny), "long_text": "mean_of_chunks", "max_tokens": 12}
    values = sources({"prefix": "query: "}, {}, model=model)
    run(parse_config(values), quiet=True)
    embedder = pipeline.Embedder(**model)
    for name, prefix in (("questions", "query: "), ("answers", "")):
        assert np.abs(embedded(values, name)[0] - embedder.embed(texts(6), prefix=prefix)).max() < 1e-5


def digests(values: dict[str, Any]) -> tuple[str, str]:
    config = parse_config(values)
    identity = Identity.of(config, checkpoint.of_config(config.model))
    return identity.vector_digest, identity.dataset_digest


def test_what_is_put_before_a_text_counts_and_not_who_says_so(
    sources: Job, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prompted"
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).symlink_to(path)
    prefixes = {"query": "query: ", "document": "passage: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prefixes}))
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')

    def of(questions: dict[str, Any], answers: dict[str, Any], **model: Any) -> tuple[str, str]:
        return digests(sources(questions, answers, model={"name": str(folder), **model}))

    plain = of({}, {})
    assert plain == of({"prefix": ""}, {"prefix": ""})
    named = of({"prompt": "query"}, {"prompt": "document"})
    assert named[0] != plain[0]
    assert named == of({"prefix": "query: "}, {"prefix": "passage: "})
    assert of({"prompt": "query"}, {}, prompt="document") == of({"prefix": "query: "}, {}, prefix="passage: ")
    assert of({}, {}, prompt="query") == of({"prompt": "query"}, {"prompt": "query"}, prefix="query: ")
    with pytest.raises(
        ModelError, match="no prompt of this name .got search.; one of query, document, or state"
    ):
        of({"prompt": "search"}, {})
    embedder = pipeline.Embedder(str(folder))
    assert np.array_equal(embedder.embed(["a b"], prompt="query"), embedder.embed(["a b"], prefix="query: "))
    with pytest.raises(ModelError, match="has no prompt of this name .got title."):
        embedder.embed(["a b"], prompt="title")


def test_a_folder_without_prompts_has_none_to_name(sources: Job) -> None:
    with pytest.raises(
        ModelError, match=r"no prompt of this name .got query.; state source.questions.prefix"
    ):
        digests(sources({"prompt": "query"}, {}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": {"prefix": "a", "prompt": "b"}},
            "model.prompt = 'b': prefix is set, too: drop one of the",
        ),
        ({"reuse": {"base": "latest", "match": "dataset"}}, "source.questions has a prefix of its own, so"),
    ],
)
def test_contradictions_are_refused(sections: dict[str, Any], message: str, sources: Job) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(sources({"prefix": "query: "}, {}, **sections))


def test_a_prefix_that_leaves_no_room_is_named_with_its_source(sources: Job, tiny: Path) -> None:
    from pipeline.model.check import usable_checkpoint

    values = sources({"prefix": "one two three four five"}, {}, model={"name": str(tiny), "max_tokens": 8})
    with pytest.raises(ModelError, match="source.questions.prefix leaves too little of model.max_tokens"):
        usable_checkpoint(parse_config(values))


def test_an_older_dataset_of_one_prefix_serves_as_a_base(sources: Job, tiny: Path, tmp_path: Path) -> None:
    """A source that states the prefix of all has the vectors of a config without it."""
    first = sources({}, {}, output={"path": str(tmp_path / "first"), "rows_per_shard": 10})
    run(parse_config(first), quiet=True)
    again = sources(
        {"prefix": ""},
        {"prefix": ""},
        output={"path": str(tmp_path / "again"), "rows_per_shard": 10},
        reuse={"base": str(tmp_path / "first")},
    )
    ending = run(parse_config(again), quiet=True)
    assert ending.summary["embedded"] == 0
    other = again | {"output": {"path": str(tmp_path / "other"), "rows_per_shard": 10}}
    other["source"]["questions"]["prefix"] = "query: "
    assert run(parse_config(other), quiet=True).summary["embedded"] == 12
