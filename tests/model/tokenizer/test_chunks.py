"""Checks that chunks cover a text, and that each chunk's range of characters gives its tokens again."""

import sysconfig
from itertools import islice, pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.docstrings import docstrings
from pipeline.model import checkpoint
from pipeline.model.tokenizer.chunks import chunk_texts
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.tokenizers_of import HAN, WORDS, edited, make_folder, real_folder

AWKWARD = [
    "e\u0301 \u200d\u00a0 \u3000x\ty\r\nz " * 20,
    "🏳️‍🌈 👩‍👩‍👧 naïve ÀÉÎ " * 15,
    "ﬁﬂ ½ ㎏ ① ﷺ İstanbul ẞ " * 12,
    "x" * 3000,
    "日本語" * 200 + " and words " * 30,
    "a\x0bb\x0cc " * 40,
    "[CLS] <unk> [MASK]x " * 25,
    "short",
    "  leading and trailing   ",
    "word",
]


def tokenizers(tmp_path: Path, kind: str, limit: int) -> Tokenizer:
    if kind == "wordpiece":
        pieces = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            *WORDS,
            *HAN,
            *(f"##{letter}" for letter in HAN),
        ]
        return Tokenizer(make_folder(tmp_path / kind, len(pieces), vocab_txt="\n".join(pieces)), limit)
    if kind == "real":
        return Tokenizer(checkpoint.Checkpoint(kind, real_folder()), limit)
    if kind == "as_it_is":  # a tokenizer that can't work word by word
        found = edited(
            tmp_path / kind,
            pre_tokenizer={
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": "always",
                "split": True,
            },
        )
        tokenizer = Tokenizer(found, limit)
        assert not tokenizer.by_words
        return tokenizer
    return Tokenizer(checkpoint.resolve("albert-mini"), limit)


def check(tokenizer: Tokenizer, texts: list[str], overlap: int, prefix: str = "") -> None:
    found = chunk_texts(tokenizer, pa.array(texts, pa.large_string()), overlap, prefix)
    lengths, edges = found.tokens.lengths, found.tokens.offsets
    ids = [found.tokens.ids[start:stop] for start, stop in pairwise(edges)]
    assert set(found.text.tolist()) == set(range(len(texts)))
    assert lengths.max(initial=0) <= tokenizer.max_tokens
    # A character may have more tokens than a chunk: U+FDFA is eighteen letters.
    assert (found.char_stop - found.char_start)[found.tokens.truncated].max(initial=1) == 1
    last = dict.fromkeys(range(len(texts)), 0)
    for text, start, stop, window in zip(found.text, found.char_start, found.char_stop, ids, strict=True):
        part = texts[text][start:stop]
        again = tokenizer.encode(pa.array([prefix + part], pa.large_string()))
        assert again.ids.tolist() == window.tolist()
        # There is only whitespace between chunks.
        assert not texts[text][last[text] : start].strip()
        last[text] = max(last[text], stop)
    for number, text in enumerate(texts):
        assert not text[last[number] :].strip()


@pytest.mark.parametrize("kind", ["mini", "real", "wordpiece", "as_it_is"])
@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("limit", [8, 64])
def test_awkward_texts(tmp_path: Path, kind: str, overlap: int, limit: int) -> None:
    check(tokenizers(tmp_path, kind, limit), AWKWARD, overlap)


@pytest.mark.parametrize("prefix", ["query: ", "joined", "a [CLS] b "])
def test_a_prefix_stands_before_each_window(tmp_path: Path, prefix: str) -> None:
    check(tokenizers(tmp_path, "mini", 32), AWKWARD, 4, prefix)


@pytest.mark.parametrize("prefix", ["passage:", "joined", "[", "query: "])
@pytest.mark.parametrize("overlap", [0, 4])
def test_a_prefix_costs_no_word_of_prose(prefix: str, overlap: int) -> None:
    prose = [row["docstring"] for row in islice(docstrings(Path(sysconfig.get_path("stdlib"))), 150)]
    check(MINI, prose, overlap, prefix)


MINI = Tokenizer(checkpoint.resolve("albert-mini"), 16)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200), max_size=4),
    overlap=st.integers(0, 7),
)
def test_any_text(texts: list[str], overlap: int) -> None:
    check(MINI, [f"{text} x" for text in texts], overlap)


def test_neighbours_share_no_more_than_the_overlap() -> None:
    texts = ["one two three four five six seven eight nine ten " * 20]
    for overlap in (0, 2, 5):
        found = chunk_texts(MINI, pa.array(texts, pa.large_string()), overlap)
        for before, after in zip(found.char_stop[:-1], found.char_start[1:], strict=True):
            shared = texts[0][after:before]
            count = len(MINI.bare(shared)) if shared.strip() else 0
            assert count <= overlap
            assert overlap < 2 or count > 0
        assert found.numbers.tolist() == list(range(len(found.text)))


def test_no_texts_have_no_windows() -> None:
    found = chunk_texts(MINI, pa.array([], pa.large_string()), 2)
    assert len(found.text) == len(found.numbers) == 0
