"""Checks that tokens are those of transformers: the last hidden state of each, and its place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.model.outputs.awkward_texts import awkward_texts
from tests.model.outputs.test_entities import LIMIT, MODELS, Rows, rows_of

TAGS = ["O", "B-X"]


@torch.inference_mode()
def theirs_of(folder: Path, texts: list[str]) -> list[tuple[list[tuple[int, int]], np.ndarray]]:
    """Returns the places of the tokens of each text, and their last hidden state, without special ones."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        told = tokenizer(
            text, truncation=True, max_length=LIMIT, return_tensors="pt", return_offsets_mapping=True
        )
        places = [tuple(place) for place in told.pop("offset_mapping")[0].tolist()]
        found.append((places[1:-1], model(**told).last_hidden_state[0, 1:-1].numpy()))
    return found


def vectors_of(row: dict[str, Rows]) -> np.ndarray:
    return np.array([token["embedding"] for token in row["tokens"]], np.float32).reshape(-1, 16)


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_those_of_transformers(tmp_path: Path, model: str) -> None:
    folder, texts = MODELS[model](tmp_path / "model", TAGS), [*awkward_texts(100), "time " * 100]
    rows = rows_of(folder, texts, outputs=("embedding", "tokens"))
    for text, row, (places, hidden) in zip(texts, rows, theirs_of(folder, texts), strict=True):
        assert [(each["char_start"], each["char_stop"]) for each in row["tokens"]] == places, repr(text)
        np.testing.assert_allclose(vectors_of(row), hidden, atol=1e-5)
    assert sum(len(row["tokens"]) for row in rows) > 500


def test_int8_is_within_half_a_scale(tmp_path: Path) -> None:
    folder, texts = MODELS["sentencepiece"](tmp_path / "model", TAGS), awkward_texts(40)
    exact, small = (
        rows_of(folder, texts, outputs=("tokens",), vector=vector) for vector in ("float32", "int8")
    )
    for row, rounded in zip(exact, small, strict=True):
        scales = np.array([token["embedding_scale"] for token in rounded["tokens"]]).reshape(-1, 1)
        assert (np.abs(vectors_of(rounded) * scales - vectors_of(row)) <= scales / 2 * 1.001).all()


def test_tokens_of_a_prefix_are_left_out(tmp_path: Path) -> None:
    """A prefix changes the vectors, not the places."""
    folder, texts = MODELS["sentencepiece"](tmp_path / "model", TAGS), ["two words", "\u00e9 time", ""]
    bare, prefixed = (
        rows_of(folder, texts, outputs=("tokens",), prefix=prefix) for prefix in ("", "query: ")
    )
    for row, other in zip(bare, prefixed, strict=True):
        places, others = (
            [(token["char_start"], token["char_stop"]) for token in each["tokens"]] for each in (row, other)
        )
        assert places == others
        if places:
            assert np.abs(vectors_of(row) - vectors_of(other)).max() > 1e-3
