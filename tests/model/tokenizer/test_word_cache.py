"""Checks that exactly four characters separate words, and that the cache works even if hashes collide."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.tokenizer import word_cache as module
from pipeline.model.tokenizer.word_cache import WordCache, counts, distinct, split
from pipeline.ragged import Bytes, Ints

TEXTS = st.lists(st.text(st.sampled_from("ab \t\n\r\v\f\x00\xa0é世"), max_size=40), max_size=8)


@given(TEXTS)
@settings(max_examples=300, deadline=None, database=None)
def test_split(texts: list[str]) -> None:
    words, first = split(pa.array(texts, pa.string()))
    right = [[word for word in re.split(r"[ \t\n\r]+", text) if word] for text in texts]
    assert words.strings().to_pylist() == [word for text in right for word in text]
    assert np.diff(first).tolist() == [len(text) for text in right]


@given(TEXTS)
@settings(max_examples=300, deadline=None, database=None)
def test_what_is_added_is_found(texts: list[str]) -> None:
    assert_found(texts)


@given(st.lists(st.text("ab", min_size=9, max_size=30), max_size=30))
@settings(max_examples=200, deadline=None, database=None)
def test_words_of_one_hash_are_told_apart(words: list[str]) -> None:
    def one_hash(data: Bytes, starts: Ints, lengths: Ints) -> np.ndarray:
        return np.full(len(starts), 7, np.uint64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_hashes", one_hash)
        assert_found([" ".join(words)])


def assert_found(texts: list[str]) -> None:
    words, _ = split(pa.array(texts, pa.string()))
    cache = WordCache(np.dtype(np.uint16), 1000, 10_000)
    spans = cache.find(words)
    assert not spans.any()
    while (missing := np.flatnonzero(spans == 0)).size:
        first, which = distinct(words.take(missing))
        new = words.take(missing[first])
        added = cache.add(new, new.lengths.astype(np.uint16), np.ones(len(new), np.int64), keep=True)
        spans[missing] = np.where(which < 0, 0, added[which])
    assert cache.find(words).tolist() == spans.tolist()
    assert cache.words == len(set(words.strings().to_pylist()))
    assert cache.ids(spans, counts(spans)).tolist() == words.lengths.tolist()
