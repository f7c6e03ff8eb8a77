"""Checks the places of tokens: which part of a long text is read, and what is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ModelError, TokenizerError
from pipeline.model.token_places import NOWHERE
from pipeline.model.tokenizer.chunks import chunk_texts
from pipeline.model.tokenizer.places import places_in_windows, places_of, refuse_without_places
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.model.outputs.awkward_texts import awkward_texts
from tests.tokenizers_of import edited, wordpiece


def large(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(edited(tmp_path_factory.mktemp("places") / "model"), 24)


def test_places_are_those_of_the_real_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = awkward_texts(500, seed=2)
    for each in (tokenizer, Tokenizer(wordpiece(tmp_path / "words"), 24)):
        assert each.by_words
        tokens = each.encode(large(texts))
        places = places_of(each, large(texts), tokens, "")
        for at, text in enumerate(texts):
            found = places[tokens.offsets[at] : tokens.offsets[at + 1]]
            assert found["start"][[0, -1]].tolist() == [NOWHERE, NOWHERE]
            wanted = each.backend.encode(text, add_special_tokens=False).offsets[:22]
            assert (
                list(zip(*(found[name][1:-1].tolist() for name in ("start", "stop")), strict=True)) == wanted
            )


def test_of_a_text_that_is_cut_only_a_beginning_is_read(tokenizer: Tokenizer) -> None:
    texts = large(["naïve café " * 5000, "x" * 50_000, "a " + "y" * 50_000 + " b", "\u00e9" * 20_000])
    tokens = tokenizer.encode(texts)
    read: list[int] = []

    def placed(strings: list[str]) -> Any:
        read.extend(map(len, strings))
        return tokenizer.placed(strings)

    watched = SimpleNamespace(**{name: getattr(tokenizer, name) for name in (
        "before", "after", "specials", "limit", "by_words", "cutter", "name", "is_unknown",
        "marks_parts_of_words", "written_lengths")}, placed=placed)  # fmt: skip
    places = places_of(watched, texts, tokens, "")  # type: ignore[arg-type]
    assert max(read[0], read[2]) < 2000  # words of one letter again and again need all of it
    for at, text in enumerate(texts.to_pylist()):
        wanted = tokenizer.backend.encode(text, add_special_tokens=False).offsets[:22]
        found = places[tokens.offsets[at] + 1 : tokens.offsets[at + 1] - 1]
        assert found["stop"].tolist() == [stop for _, stop in wanted]


def test_each_token_of_a_text_is_kept_in_one_of_its_windows(tokenizer: Tokenizer) -> None:
    texts = large([" ".join(f"w{number}" for number in range(60)), "short", "a\tb " * 40])
    for overlap in (0, 5, 11):
        found = chunk_texts(tokenizer, texts, overlap)
        places = places_in_windows(tokenizer, texts, found, "", one_row=True)
        kept = places["start"] != NOWHERE
        of_text = np.repeat(found.text, found.tokens.lengths)
        for at, text in enumerate(texts.to_pylist()):
            mine = places[kept & (of_text == at)]
            wanted = tokenizer.backend.encode(text, add_special_tokens=False).offsets
            assert list(zip(mine["start"].tolist(), mine["stop"].tolist(), strict=True)) == wanted


def test_other_ids_are_never_given_places(tokenizer: Tokenizer) -> None:
    texts = large(["one text"])
    tokens = tokenizer.encode(texts)
    with pytest.raises(TokenizerError, match="gives other tokens when it is asked for their places"):
        places_of(tokenizer, texts, replace(tokens, ids=tokens.ids[::-1].copy()), "")


@pytest.mark.parametrize("offsets", [[(0, 0), (0, 0)], [(4, 9), (0, 3)], [(0, 99)]])
def test_a_tokenizer_without_places_is_refused(offsets: list[tuple[int, int]]) -> None:
    backend = SimpleNamespace(encode=lambda *_, **__: SimpleNamespace(offsets=offsets))
    with pytest.raises(ModelError, match="does not say where its tokens stand in a text"):
        refuse_without_places(SimpleNamespace(backend=backend, name="model", side="right"))  # type: ignore[arg-type]


def test_a_tokenizer_that_keeps_the_end_of_a_text_is_refused() -> None:
    with pytest.raises(ModelError, match="the tokenizer keeps the end of a long text"):
        refuse_without_places(SimpleNamespace(name="model", side="left"))  # type: ignore[arg-type]
