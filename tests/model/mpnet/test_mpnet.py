"""Checks MPNet against transformers, one text at a time; `MPNET` may name a folder with real weights."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from pipeline.errors import ModelError
from pipeline.model import checkpoint
from pipeline.model.encoder import Encoder
from pipeline.model.mpnet.forward import buckets
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import texts
from tests.model.bert.test_bert import batch, made, one_by_one
from tests.tokenizers_of import wordpiece

GEOMETRIES: dict[str, dict[str, Any]] = {
    "long": {"max_position_embeddings": 402},
    "one-head": {"num_attention_heads": 1, "hidden_size": 32, "max_position_embeddings": 402},
    "deep": {"num_hidden_layers": 9, "max_position_embeddings": 402},
    "another-padding": {"pad_token_id": 7, "max_position_embeddings": 402},
    "short": {"max_position_embeddings": 66},
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_vectors_are_those_of_transformers(geometry: str, tmp_path: Path) -> None:
    """Texts are longer than the farthest distance that the bias tells apart, but for the short ones."""
    settings = GEOMETRIES[geometry]
    folder, model = made(tmp_path / "mpnet", "mpnet", **settings)
    found = checkpoint.resolve(str(folder))
    found.check()
    longest = settings["max_position_embeddings"] - 2
    assert found.positions == longest
    tokens = batch([longest, 1, longest - 3, 2, 30, longest // 2], 300)
    for packed in (64, 4096):
        vectors = Encoder(found, batch_tokens=packed).encode(tokens)
        assert np.abs(vectors - one_by_one(model, tokens)).max() < 1e-5


def test_the_bias_of_the_weights_is_used(tmp_path: Path) -> None:
    folder, model = made(tmp_path / "mpnet", "mpnet")
    tokens = batch([20, 30], 300)
    with torch.no_grad():
        model.encoder.relative_attention_bias.weight.zero_()
    vectors = Encoder(checkpoint.resolve(str(folder))).encode(tokens)
    assert np.abs(vectors - one_by_one(model, tokens)).max() > 1e-3


@pytest.mark.parametrize("positions", [1, 2, 17, 512, 5000])
def test_distances_have_the_buckets_of_transformers(positions: int) -> None:
    distance = torch.arange(1 - positions, positions)
    assert torch.equal(buckets(positions), MPNetEncoder.relative_position_bucket(distance))


def test_another_number_of_buckets_is_refused(tmp_path: Path) -> None:
    """transformers reads the number from config.json for the weights, and not for the forward pass."""
    folder, _ = made(tmp_path / "mpnet", "mpnet")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"relative_attention_num_buckets": 64}))
    with pytest.raises(ModelError, match="relative_attention_num_buckets must be 32 .got 64."):
        checkpoint.resolve(str(folder)).check()


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_texts_have_the_ids_and_the_special_tokens_of_transformers(file: str, tmp_path: Path) -> None:
    specials = ("<s>", "<pad>", "</s>", "<mask>")
    made_of = wordpiece(tmp_path / "vocab.txt", specials, tokenizer_class="MPNetTokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(made_of.folder)
    theirs.save_pretrained(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json" / "config.json").write_bytes((made_of.folder / "config.json").read_bytes())
    ours = Tokenizer(tmp_path / file, 8)
    assert ours.by_words
    some = ["hello world", "", "unknown café, 3.14 ab", "a " * 20, "a <mask> b </s> [UNK] [PAD]"]
    found = ours.encode(pa.array(some))
    wanted = theirs(some, truncation=True, max_length=8)["input_ids"]
    assert [each.tolist() for each in np.split(found.ids, found.offsets[1:-1])] == wanted


@pytest.mark.skipif("MPNET" not in os.environ, reason="MPNET names no folder of all-mpnet-base-v2")
def test_real_weights_give_the_vectors_of_transformers() -> None:
    folder = os.environ["MPNET"]
    some = [*texts(40), "naïve café \u0301", "中文 ok", "x" * 500, "word " * 500, "a <mask> and </s>"]
    found = checkpoint.resolve(folder)
    found.check()
    encoder = Encoder(found)
    tokenizer = Tokenizer(found, encoder.recipe.max_tokens)
    assert tokenizer.by_words
    ours = encoder.encode(tokenizer.encode(pa.array(some)))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    cut = transformers.AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(some, ours, strict=True):
        inputs = cut(text, truncation=True, max_length=encoder.recipe.max_tokens, return_tensors="pt")
        with torch.inference_mode():
            mean = theirs(**inputs).last_hidden_state[0].mean(0)
        assert np.abs(vector - torch.nn.functional.normalize(mean, dim=0).numpy()).max() < 1e-5
