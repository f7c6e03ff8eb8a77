"""Checks that heads say of each text what transformers' pipelines say of one text at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from transformers import pipeline as transformers_pipeline

from pipeline.config.sections import Model
from pipeline.model import checkpoint, outputs
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.models_with_heads import with_classes

TEXTS = [
    "one",
    "a much longer text that goes over the limit " * 20,
    "naïve café, e\u0301te\u0301 \u200d zero-width",
    "3.14 (or so) \ufb01ne ½ ① \uff21",
    "日本語と中文 mixed 🙂👩‍👩‍👧 emoji",
    "a\u00a0b\u2003c\tİstanbul ΘΕΟΣ",
    "one",
    "two words",
]
"""Awkward texts, one twice, one far over the limit."""
LIMIT = 24
PROBLEMS: dict[str, tuple[int, dict[str, Any]]] = {
    "two labels": (2, {}),
    "seven labels": (7, {}),
    "single label": (5, {"problem_type": "single_label_classification"}),
    "multi label": (4, {"problem_type": "multi_label_classification"}),
    "regression": (1, {"problem_type": "regression"}),
    "one probability": (1, {}),
}


def scores(folder: Path, texts: list[str], **options: Any) -> tuple[np.ndarray, outputs.OutputSpec]:
    found = checkpoint.resolve(str(folder))
    model = Model(name=str(folder), max_tokens=LIMIT, outputs=("embedding", "classification"))
    encoder = Encoder(found, recipe=EmbeddingSpec.of(found, model), **options)
    tokens = Tokenizer(found, LIMIT).encode(pa.array(texts, pa.large_string()))
    parts = outputs.parted(encoder.run(tokens).values, encoder.outputs)
    return parts["classification"], encoder.outputs


def scores_of(folder: Path, texts: list[str], max_tokens: int) -> np.ndarray:
    """Returns the scores of transformers' pipeline, one text at a time, in the order of the labels."""
    theirs = transformers_pipeline("text-classification", model=str(folder), top_k=None)
    found = []
    for text in texts:
        [told] = theirs(text, truncation=True, max_length=max_tokens)
        at = theirs.model.config.label2id
        found.append([each["score"] for each in sorted(told, key=lambda each: at[each["label"]])])
    return np.array(found, np.float32)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_classes_equal_those_of_transformers(tmp_path: Path, problem: str) -> None:
    count, config = PROBLEMS[problem]
    labels = [f"label {number}" for number in range(count)]
    folder = with_classes(tmp_path / "model", labels, **config)
    found, spec = scores(folder, TEXTS)
    theirs = transformers_pipeline("text-classification", model=str(folder), top_k=None)
    stored = outputs.classification.store(found, spec)
    table = pa.table(stored, names=[field.name for field in outputs.classification.fields(spec)])
    for text, row, ours in zip(TEXTS, table.to_pylist(), found, strict=True):
        [wanted] = theirs(text, truncation=True, max_length=LIMIT)
        by_label = {each["label"]: each["score"] for each in wanted}
        np.testing.assert_allclose(ours, [by_label[label] for label in labels], atol=1e-5)
        assert row["score"] == pytest.approx(wanted[0]["score"], abs=1e-5)
        if problem == "regression":
            assert list(row) == ["score"]
        elif problem in ("multi label", "one probability"):
            assert row["label"] == [label for label in labels if by_label[label] > 0.5]
        else:
            assert row["label"] == wanted[0]["label"]
    assert len({tuple(np.round(each, 3)) for each in found}) > 3  # the head tells texts apart


def test_company_changes_no_score(tmp_path: Path) -> None:
    folder = with_classes(tmp_path / "model", ["a", "b", "c"])
    together, _ = scores(folder, TEXTS)
    for budget in (1, 40):
        np.testing.assert_allclose(scores(folder, TEXTS, batch_tokens=budget)[0], together, atol=1e-5)


def test_a_head_of_a_pickle(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = with_classes(tmp_path / "model", ["a", "b"])
    wanted, _ = scores(folder, TEXTS)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = checkpoint.resolve(str(folder), allow_pickle=True)
    model = Model(name=str(folder), max_tokens=LIMIT, outputs=("classification",))
    encoder = Encoder(found, recipe=EmbeddingSpec.of(found, model))
    tokens = Tokenizer(found, LIMIT).encode(pa.array(TEXTS, pa.large_string()))
    np.testing.assert_allclose(encoder.run(tokens).values, wanted, atol=1e-6)
