"""Tests heads that were trained on vectors: what is read, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline import cli
from pipeline.config.load import parse_config
from pipeline.dataset.identity import Identity
from pipeline.errors import ConfigError, ExitCode, ModelError
from pipeline.model.checkpoint import of_config
from pipeline.model.trained_head import FACTS, WEIGHTS, TrainedHead, read
from tests.conftest import write_config

Job = Callable[..., dict[str, Any]]
LABELS = ("a", "b", "c")


def head_for(values: dict[str, Any], folder: Path, dimension: int = 16) -> TrainedHead:
    """Writes a head for the vectors of a config."""
    config = parse_config(values)
    fields = Identity.of(config, of_config(config.model)).vector_fields
    chance = np.random.default_rng(0)
    layer = [chance.normal(size=size).astype(np.float32) for size in [(3, dimension), 3]]
    made = TrainedHead.of(str(folder), LABELS, fields, *layer)
    made.write()
    return made


def test_it_is_read_as_it_was_written(job: Job, tmp_path: Path) -> None:
    made = head_for(job(), tmp_path / "head")
    found = read(str(tmp_path / "head"))
    assert found == made
    assert found.digest == made.digest
    np.testing.assert_array_equal(found.weight, made.weight)


OTHERS = {
    "another pooling": ({"pooling": "cls"}, "model.pooling"),
    "not of length 1": ({"normalize": False}, "model.normalize"),
    "another prefix": ({"prefix": "query: "}, "model.prefix"),
}


@pytest.mark.parametrize(("model", "field"), OTHERS.values(), ids=OTHERS)
def test_other_vectors_are_refused(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: dict[str, Any], field: str
) -> None:
    head_for(job(), tmp_path / "head")
    outputs = {"outputs": ["classification"], "head": str(tmp_path / "head")}
    path = write_config(tmp_path / "job.json", job(model=outputs | model))
    assert cli.main(["plan", str(path)]) == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert (
        f"{tmp_path}/head: was trained on other vectors (got {field}); train it on a dataset of this" in said
    )


def test_what_does_not_change_their_meaning_is_allowed(job: Job, tmp_path: Path) -> None:
    head_for(job(), tmp_path / "head")
    outputs = {"outputs": ["classification"], "head": str(tmp_path / "head")}
    for model in ({"vector": "int8"}, {"max_tokens": 20}, {"long_text": "chunks", "max_tokens": 20}):
        config = parse_config(job(model=outputs | model))
        assert Identity.of(config, of_config(config.model)).outputs.classes is not None


def test_another_dimension_is_refused(job: Job, tmp_path: Path) -> None:
    head_for(job(), tmp_path / "head", dimension=8)
    config = parse_config(job(model={"outputs": ["classification"], "head": str(tmp_path / "head")}))
    with pytest.raises(ModelError, match=r"was trained on other vectors \(got 8 dimensions, not 16\)"):
        Identity.of(config, of_config(config.model))


def test_a_config_that_contradicts_itself_is_refused(job: Job) -> None:
    with pytest.raises(ConfigError, match="means nothing without the output classification"):
        parse_config(job(model={"head": "x"}))
    with pytest.raises(ConfigError, match="there is no threshold"):
        parse_config(job(model={"head": "x", "outputs": ["classification"], "threshold": 0.5}))


def layer(**changes: Any) -> dict[str, Any]:
    return {"weight": np.ones((3, 16), np.float32), "bias": np.ones(3, np.float32)} | changes


DAMAGED: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, str]] = {
    "none": (None, None, "no head here"),
    "no weights": ({}, None, "no head here"),
    "another version": ({"format_version": 2}, layer(), "is of another version of this program"),
    "one label": ({"labels": ["a"]}, layer(), "is damaged"),
    "a label twice": ({"labels": ["a", "a", "b"]}, layer(), "is damaged"),
    "labels that are not strings": ({"labels": [1, 2, 3]}, layer(), "is damaged"),
    "no labels": ({"labels": None}, layer(), "is damaged"),
    "fewer labels": ({"labels": ["a", "b"]}, layer(), "is damaged"),
    "no bias": ({}, {"weight": np.ones((3, 16), np.float32)}, "is damaged"),
    "other numbers": ({}, layer(weight=np.ones((3, 16), np.float64)), "is damaged"),
    "another shape": ({}, layer(bias=np.ones(4, np.float32)), "is damaged"),
    "not finite": ({}, layer(bias=np.full(3, np.nan, np.float32)), "is damaged"),
}


@pytest.mark.parametrize(("facts", "weights", "says"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_not_a_head_is_refused(
    tmp_path: Path, facts: dict[str, Any] | None, weights: dict[str, Any] | None, says: str
) -> None:
    if facts is not None:
        whole = {"format_version": 1, "labels": list(LABELS), "vectors": {}} | facts
        (tmp_path / FACTS).write_text(json.dumps(whole))
    if weights is not None:
        save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=says):
        read(str(tmp_path))


@pytest.mark.parametrize("name", [FACTS, WEIGHTS])
def test_bytes_that_are_something_else_are_refused(job: Job, tmp_path: Path, name: str) -> None:
    head_for(job(), tmp_path / "head")
    (tmp_path / "head" / name).write_bytes(b"\x80\x04 not this")
    with pytest.raises(ModelError, match="is damaged"):
        read(str(tmp_path / "head"))
