"""The encoder gives the vectors that transformers gives one text at a time, whatever the company."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AlbertModel, AutoTokenizer

from pipeline import checkpoint
from pipeline.encoder import Encoder
from pipeline.tokenizer import Tokenizer
from tests.conftest import make_checkpoint

TEXTS = [
    "one",
    "two words",
    "a much longer text " * 30,
    "one",
    "3.14 (or so)",
    "naïve café " * 5,
    "two words",
]


def reference(folder: Path, texts: list[str], max_tokens: int, pooling: str = "mean") -> np.ndarray[Any, Any]:
    """transformers' AlbertModel and AutoTokenizer, one text at a time, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AlbertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    vectors = []
    for text in texts:
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state[0]
        pooled = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0)}[pooling]
        vectors.append(torch.nn.functional.normalize(pooled, dim=0).numpy())
    return np.stack(vectors)


def encode(folder: Path, texts: list[str], max_tokens: int = 512, **options: Any) -> np.ndarray[Any, Any]:
    found = checkpoint.resolve(str(folder))
    tokens = Tokenizer(found, max_tokens).encode(pa.array(texts, pa.large_string()))
    return Encoder(found, **options).encode(tokens).vectors


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("geometry", [{}, {"num_hidden_groups": 2}, {"inner_group_num": 2}], ids=str)
def test_equals_transformers(tmp_path: Path, pooling: str, geometry: dict[str, int]) -> None:
    folder = make_checkpoint(tmp_path / "model", **geometry)
    vectors = encode(folder, TEXTS, 64, pooling=pooling)
    np.testing.assert_allclose(vectors, reference(folder, TEXTS, 64, pooling), atol=1e-5)


def test_the_built_in_checkpoint_equals_transformers() -> None:
    folder = checkpoint.resolve("albert-mini").folder
    np.testing.assert_allclose(encode(folder, TEXTS), reference(folder, TEXTS, 512), atol=1e-5)


@pytest.mark.parametrize("budget", [1, 16, 100_000])
def test_company_and_order_change_nothing(tiny: Path, budget: int) -> None:
    together = encode(tiny, TEXTS, batch_tokens=budget)
    backwards = encode(tiny, TEXTS[::-1], batch_tokens=budget)[::-1]
    alone = np.concatenate([encode(tiny, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(backwards, alone, atol=1e-5)


def test_identical_texts_are_encoded_once(tiny: Path) -> None:
    found = checkpoint.resolve(str(tiny))
    tokens = Tokenizer(found).encode(pa.array(["same words"] * 50 + ["others"], pa.large_string()))
    encoded = Encoder(found).encode(tokens)
    assert encoded.padded_tokens <= 2 * tokens.lengths.max()
    assert (encoded.vectors[:50] == encoded.vectors[0]).all()


def test_no_texts_give_no_vectors(tiny: Path) -> None:
    assert encode(tiny, []).shape == (0, 16)


def test_unnormalised_vectors_keep_their_length(tiny: Path) -> None:
    norms = np.linalg.norm(encode(tiny, TEXTS, normalize=False), axis=1)
    assert not np.allclose(norms, 1)
