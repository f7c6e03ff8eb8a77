"""Checks that each family's facts fit together: its list of weights is what its forward pass takes."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.model import checkpoint, families
from pipeline.model.attention import Packing
from pipeline.model.model_config import ModelConfig
from pipeline.model.transformer import load_transformer
from tests.conftest import PACKAGED

NO_SETTINGS = [
    ("distilbert", "layer_norm_eps"),
    ("distilbert", "type_vocab_size"),
    ("mpnet", "type_vocab_size"),
]


def test_the_forward_pass_takes_ids_and_packing_and_gives_hidden_states() -> None:
    model = load_transformer(checkpoint.resolve("albert-mini"), torch.device("cpu"), torch.float32)
    packing = Packing.of(torch.tensor([3, 2]), 5, 3, model.varlen)
    assert packing.cu_seqlens.tolist() == [0, 3, 5]
    assert packing.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert model(torch.tensor([2, 50, 3, 2, 3]), packing).shape == (5, 384)


def test_a_model_type_that_is_not_known_is_told_with_those_that_are(tmp_path: Path) -> None:
    for values in ({"model_type": "gpt2"}, {"model_type": ["albert"]}, {}, []):
        with pytest.raises(
            ModelError, match="a checkpoint of none of ALBERT, BERT.*config.json says one of albert, bert"
        ):
            families.family_of(values, tmp_path / "config.json")


@pytest.mark.parametrize("kind", families.FAMILIES)
def test_defaults_are_those_of_transformers(kind: str) -> None:
    from transformers import CONFIG_MAPPING

    theirs, family = CONFIG_MAPPING[kind](), families.FAMILIES[kind]
    for name, default in family.DEFAULTS.items():
        if (kind, name) in NO_SETTINGS:
            continue
        assert getattr(theirs, family.ALIASES.get(name, name)) == default, name


def test_a_size_is_bounded(tmp_path: Path) -> None:
    values = json.loads((PACKAGED / "config.json").read_text())
    config = ModelConfig(tmp_path, values | {"deep": 9}, {"wide": 4}, {"deep": 8})
    assert (config.size("hidden_size"), config.size("wide"), config.get("nothing")) == (384, 4, None)
    with pytest.raises(ModelError, match="deep must be a positive integer, at most 8"):
        config.size("deep")
