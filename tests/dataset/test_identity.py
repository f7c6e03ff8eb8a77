"""Tests that digests of checkpoints do not change: so older datasets resume, and serve as a base."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import parse_config
from pipeline.dataset.identity import Identity
from pipeline.model import checkpoint

SIZES = {
    "model_type": "albert", "vocab_size": 30, "max_position_embeddings": 64, "embedding_size": 8,
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
"""A config.json without the fields that have a default."""
MORE = {
    "hidden_act": "relu", "layer_norm_eps": 1e-6, "num_hidden_groups": 2, "inner_group_num": 3,
    "type_vocab_size": 4,
}  # fmt: skip


def identity(name: str, **source: Any) -> Identity:
    values = {
        "source": {"docs": {"path": "/nowhere/*.parquet", **source}},
        "model": {"name": name},
        "output": {"path": "/nowhere/out"},
    }
    return Identity.of(parse_config(values), checkpoint.resolve(name))


def test_the_digests_of_the_built_in_checkpoint_stay() -> None:
    found = identity("albert-mini")
    assert found.vector_digest == "73466a6bb50a6cff4b3d4d8ad303fba29d5a2a9c59b42ad27d14718b911270c3"
    assert found.dataset_digest == "c1cbd77003b1c14a29be31ce214ad2fbfdec8e33ede261513d89c9c3ae7929ee"


def test_younger_fields_count_only_if_they_are_used() -> None:
    before = identity("albert-mini")
    assert identity("albert-mini", hidden="skip", binary_as_string=False, text_pair_column=None) == before
    for field, value in (("hidden", "dots"), ("binary_as_string", True), ("text_pair_column", "other")):
        other = identity("albert-mini", **{field: value})
        assert other.dataset_digest != before.dataset_digest
        assert other.differences(before) == [f"source.docs.{field}: null there, {json.dumps(value)} here"]


def test_the_version_of_a_table_does_not_count() -> None:
    """A night names another one, and copies shards of its base; versions of files tell what differs."""
    before = identity("albert-mini", path="/nowhere/table", format="delta")
    assert identity("albert-mini", path="/nowhere/table", format="delta", version=3) == before


@pytest.mark.parametrize(
    ("more", "digest"),
    [
        ({}, "024f177b766602ef6e2703289e3ff4995659c1acb82ba410b685184e28c2fe2b"),
        (MORE, "d5ea45ec35267ab0e91ab887ac6af9abfd3caa4a329b4dd7982a6715b3105fce"),
    ],
)
def test_the_digest_of_a_config_stays_with_and_without_its_defaults(
    tmp_path: Path, more: dict[str, Any], digest: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SIZES | more))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "vocab.txt").write_bytes(b"words")
    assert identity(str(tmp_path)).vector_digest == digest
