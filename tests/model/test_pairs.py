"""Checks that pairs of texts get what transformers makes of one pair at a time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AlbertModel, AutoTokenizer
from transformers import pipeline as transformers_pipeline

from pipeline.config.sections import Model
from pipeline.errors import ModelError
from pipeline.model import checkpoint, outputs
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.models_with_heads import with_classes

LONG = "words without an end " * 40
PAIRS = [
    ("a premise", "a hypothesis"),
    ("a", "premise a hypothesis"),
    ("one", LONG),
    (LONG, "one"),
    (LONG, f"{LONG} {LONG}"),
    (f"{LONG} {LONG}", LONG),
    (LONG, LONG),
    ("naïve e\u0301té \u200d 🙂", "日本語 İstanbul\u00a0x"),
    ("[SEP] in a text", "and [CLS] in another"),
    ("a premise", "a hypothesis"),
    ("x", "y [SEP] z"),
    ("x [SEP] y", "z"),
]
"""Pairs at and over the limit, one twice, and two with the same ids that are cut at other places."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_classes(tmp_path_factory.mktemp("pairs") / "model", ["entails", "neutral", "contradicts"])


@pytest.mark.parametrize("limit", [8, 24, 25, 512])
def test_ids_and_types_are_those_of_the_library(folder: Path, limit: int) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(checkpoint.resolve(str(folder)), limit)
    tokens = ours.encode_pairs(*(pa.array(texts, pa.large_string()) for texts in zip(*PAIRS, strict=True)))
    assert tokens.second is not None
    for at, (first, second) in enumerate(PAIRS):
        wanted = theirs(first, second, truncation="longest_first", max_length=limit)
        ids = tokens.ids[tokens.offsets[at] : tokens.offsets[at + 1]]
        assert ids.tolist() == wanted["input_ids"], (limit, at)
        assert (np.arange(len(ids)) >= tokens.second[at]).astype(int).tolist() == wanted["token_type_ids"]
        whole = len(theirs(first, second)["input_ids"])
        assert tokens.truncated[at] == (whole > limit)


def test_vectors_and_classes_equal_those_of_transformers(folder: Path) -> None:
    limit = 24
    found = checkpoint.resolve(str(folder))
    model = Model(name=str(folder), max_tokens=limit, outputs=("embedding", "classification"))
    encoder = Encoder(found, recipe=EmbeddingSpec.of(found, model))
    texts = [pa.array(each, pa.large_string()) for each in zip(*PAIRS, strict=True)]
    values = encoder.run(Tokenizer(found, limit).encode_pairs(*texts)).values
    parts = outputs.parted(values, encoder.outputs)
    theirs = transformers_pipeline("text-classification", model=str(folder), top_k=None)
    bare = AlbertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for at, (first, second) in enumerate(PAIRS):
        told = theirs({"text": first, "text_pair": second}, truncation=True, max_length=limit)
        told = told[0] if isinstance(told[0], list) else told
        order = theirs.model.config.label2id
        wanted = [each["score"] for each in sorted(told, key=lambda each: order[each["label"]])]
        np.testing.assert_allclose(parts["classification"][at], wanted, atol=1e-5, err_msg=str(at))
        with torch.inference_mode():
            inputs = tokenizer(first, second, truncation=True, max_length=limit, return_tensors="pt")
            pooled = bare(**inputs).last_hidden_state[0].mean(0)
        wanted = torch.nn.functional.normalize(pooled, dim=0).numpy()
        np.testing.assert_allclose(parts["embedding"][at], wanted, atol=1e-5)


def test_a_tokenizer_that_joins_texts_in_another_way_is_refused(folder: Path) -> None:
    tokenizer = Tokenizer(checkpoint.resolve(str(folder)), 24)
    tokenizer.refuse_other_pairs()
    from tokenizers import processors

    cls, sep = (tokenizer.backend.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    with pytest.raises(ModelError, match="does not join two texts as"):
        tokenizer.refuse_other_pairs()
