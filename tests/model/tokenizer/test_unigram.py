"""Checks that the vectorised search finds the path of `tokenizers`, on models full of ties and unknowns."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from pipeline.model.tokenizer.unigram import Unigram

LETTERS = "abé世"
PIECES = st.dictionaries(
    st.text("▁" + LETTERS, min_size=1, max_size=5),
    st.sampled_from([-1.0, -2.0, -3.0, -4.5, -100.25]),
    max_size=12,
)
WORDS = st.lists(st.text(LETTERS + "x\U0001f600", min_size=1, max_size=12), max_size=20)


@given(PIECES, WORDS)
@settings(max_examples=500, deadline=None, database=None)
def test_paths_are_those_of_tokenizers(scores: dict[str, float], words: list[str]) -> None:
    pieces = [("<unk>", 0.0), ("▁x", -1.5), *scores.items()]
    ids, counts = Unigram(pieces, 0).cut(pa.array(words, pa.large_string()))
    real = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    right = [encoding.ids for encoding in real.encode_batch([f"▁{word}" for word in words])]
    assert [len(each) for each in right] == counts.tolist()
    assert [number for each in right for number in each] == ids.tolist()


@pytest.mark.parametrize("scores", [[0.0, 0.0], [0.0, 1.0], [-1.0, float("-inf")]])
def test_scores_that_prove_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="log-probabilities"):
        Unigram(list(zip(["<unk>", "a"], scores, strict=True)), 0)


def test_a_trie_has_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.model.tokenizer.unigram.MAX_TRIE_BYTES", 100)
    with pytest.raises(ValueError, match="too large"):
        Unigram([("<unk>", 0.0), ("abcdefghijkl", -1.0)], 0)
