# ruff: noqa: RUF001  (look-alikes are what is tested)
"""Checks that the fast tokenizer gives the real one's ids for any text, vocabulary and size of the cache."""

import json
import logging
import os
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.model import checkpoint
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer import blocks, tokenizer
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import PACKAGED
from tests.tokenizers_of import edited, expected, got, real_folder, truncating, wordpiece

LIMITS = (8, 128, 512)
CORPORA = Path(os.environ.get("CORPORA", Path(__file__).parents[3] / ".corpora"))
KINDS = ["real", "mini", "cased", "accents", "nfc", "wordpiece", "wordpiece cased"]

SPECIALS = [
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "<unk>",
    "<pad>",
    "[cls]",
    "[mask]",
    "[UNK]",
    "[PAD]",
    "＜unk＞",
    "［ＣＬＳ］",
]
SPACES = [*" \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u180e\u2028\u2029\u202f\u205f\u3000\ufeff"]
SPACES += map(chr, range(0x2000, 0x2010))
MARKS = [*"\u0301\u0308\u0327\u20dd\u0345\u3099\u200d\u200c\ufe0f\u00ad\u2060"]
CHUNKS = [*"`'▁İßΣﬁﷺ㍿…½Åé각\u0958\x00\x01\x7f\U0010ffff", "``", "''", "▁▁", "ΑΣ", "e\u0301", "\u1100\u1161"]
CHUNKS += [
    "한국어",
    "你好世界",
    "日本語",
    "ก็",
    "لا",
    "🇫🇷",
    "👩\u200d👩\u200d👧",
    "3.14",
    "1,000,",
    "9,",
    "٣,",
    "²,",
]
CHUNKS += ["!!!!", "hahaha", "=====", "0x3fff/0x7fff", "<br", "/>", "the", "The", "don't", "unbelievable"]
CHUNKS += ["hello world", "a" * 70, "é" * 40]
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(
    st.one_of(
        st.sampled_from(SPECIALS), st.sampled_from(SPACES), st.sampled_from([" ", "\n"]),
        st.sampled_from(MARKS), st.sampled_from(CHUNKS), CHARACTERS, st.text(CHARACTERS, max_size=6),
        st.text("ab1,.'`-", max_size=8),
        st.text("etaoinshrdlu", max_size=12), st.characters(categories=["Mn", "Mc", "Me", "Cc", "Cf", "Zs"]),
    ), max_size=30,
).map("".join)  # fmt: skip


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


def checkpoint_of(kind: str, folders: Path) -> Checkpoint:
    """Returns a checkpoint whose vocabulary and settings allow tokenizing word by word."""
    steps = json.loads((PACKAGED / "tokenizer.json").read_text())["normalizer"]["normalizers"]
    folder = folders / kind
    if kind == "real":
        return Checkpoint(kind, real_folder())
    if kind == "mini":
        return checkpoint.resolve("albert-mini")
    if kind.startswith("wordpiece"):
        return wordpiece(folder, **({"do_lower_case": False} if "cased" in kind else {}))
    left_out = {"cased": ["Lowercase"], "accents": ["NFKD", "StripAccents"], "nfc": ["NFKD", "StripAccents"]}[
        kind
    ]
    steps = [step for step in steps if step["type"] not in left_out]
    steps += [{"type": "NFC"}] if kind == "nfc" else []
    steps += [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    return edited(folder, normalizer={"type": "Sequence", "normalizers": steps})


_made: dict[tuple[str, int], Any] = {}


def made(kind: str, limit: int, folders: Path) -> tuple[Tokenizer, Any]:
    """Returns our tokenizer, whose cache is kept for all examples, and the real one."""
    if (kind, limit) not in _made:
        where = checkpoint_of(kind, folders)
        _made[kind, limit] = Tokenizer(where, limit), truncating(load_backend(where.folder), limit)
    return _made[kind, limit]


def assert_same(kind: str, limit: int, texts: list[str], folders: Path) -> None:
    fast, real = made(kind, limit, folders)
    assert fast.by_words
    for text, ours, encoding in zip(texts, got(fast, texts), real.encode_batch_fast(texts), strict=True):
        assert ours == (encoding.ids, bool(encoding.overflowing)), repr(text)


def examples(count: int) -> Any:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=checks)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXT, max_size=6))
@examples(150)
def test_any_text(kind: str, folders: Path, texts: list[str]) -> None:
    for limit in LIMITS:
        assert_same(kind, limit, texts, folders)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXT, min_size=4, max_size=16))
@examples(4000)
def test_many_texts(kind: str, folders: Path, texts: list[str]) -> None:
    for limit in LIMITS:
        assert_same(kind, limit, texts, folders)


def around(characters: list[str]) -> list[str]:
    """Returns texts with each character within, before, after and as a word."""
    return [f"ab{c}cd {c}e f{c} g{c}\t{c}\r{c}{c}\n{c}\u0301 h" for c in characters]


@pytest.mark.parametrize("kind", ["real", "mini", "accents"])
def test_characters_of_one_page_in_forty(kind: str, folders: Path) -> None:
    codes = [code for code in range(0x110000) if code >> 8 in range(0, 0x1100, 40) or code < 0x400]
    assert_same(kind, 512, around([chr(code) for code in codes if not 0xD800 <= code < 0xE000]), folders)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_character(kind: str, folders: Path) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for at in range(0, len(characters), 10_000):
        assert_same(kind, 512, around(characters[at : at + 10_000]), folders)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kind", ["real", "mini"])
def test_as_transformers_is_called_by_everyone(kind: str, limit: int, folders: Path, tmp_path: Path) -> None:
    where = checkpoint_of(kind, folders)
    if (
        kind == "real"
    ):  # transformers cuts a bare spiece.model differently from Google, but not a tokenizer.json
        load_backend(where.folder).save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text((PACKAGED / "tokenizer_config.json").read_text())
        (tmp_path / "config.json").write_text((where.folder / "config.json").read_text())
        where = Checkpoint(kind, tmp_path)
    auto = AutoTokenizer.from_pretrained(where.folder)
    texts = ["", " ", "3.14 (or so)", *SPECIALS, *SPACES, *CHUNKS, " ".join(CHUNKS), " ".join(CHUNKS * 20)]
    texts += [f"a {special} b{special}c" for special in SPECIALS]
    ours = got(Tokenizer(where, limit), texts)
    for text, (ids, _) in zip(texts, ours, strict=True):
        assert ids == auto(text, truncation=True, max_length=limit).input_ids, repr(text)


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kind", ["real", "mini"])
def test_real_texts(kind: str, limit: int, folders: Path) -> None:
    path = CORPORA / "languages.parquet"
    if not path.exists():
        pytest.skip(f"no corpus at {path}: make one with `python -m benchmarks.corpora FOLDER`, set CORPORA")
    texts = pq.read_table(path)["text"].combine_chunks()
    for at in range(0, len(texts), 10_000):
        assert_same(kind, limit, texts.slice(at, 10_000).to_pylist(), folders)
    print(f"{len(texts)} texts, no difference")


def test_kinds_of_arrays() -> None:
    ours = Tokenizer(checkpoint.resolve("albert-mini"), 8)
    texts = ["one", "", "two words of text that go on", "three", "many words " * 99]
    whole = got(ours, texts)
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert got(ours, pa.chunked_array([pa.array(texts, kind)])) == whole
    assert got(ours, pa.chunked_array([texts[:1], [], texts[1:]])) == whole
    assert got(ours, pa.chunked_array([pa.array(["x", *texts, "y"]).slice(1, 5)])) == whole
    assert got(ours, pa.chunked_array([], pa.string())) == got(ours, []) == []
    assert ours.encode(pa.array(texts)).ids.dtype == np.uint16


@pytest.mark.parametrize("limit", [3, 8, 512])
def test_blocks_and_windows_leave_no_trace(
    limit: int, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    monkeypatch.setattr(tokenizer, "BYTES_PER_TOKEN", 1)
    texts = [
        "\u0301 " * 400,
        "word " * 300,
        "x" * 2000 + " y",
        "é" * 900,
        " " * 5000 + "end",
        "a b",
        "",
        "é " * 300,
    ]
    where = checkpoint.resolve("albert-mini")
    assert got(Tokenizer(where, limit), texts * 3) == expected(where, texts * 3, limit)


def test_a_long_document_is_read_only_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Tokenizer(checkpoint.resolve("albert-mini"))
    document = " ".join(f"word{number}" for number in range(1_000_000))
    ((ids, truncated),) = got(ours, [document])
    assert (len(ids), truncated) == (512, True)
    assert ours.cache.misses < 1000, "all but the first words were cut"
    assert ids == expected(checkpoint.resolve("albert-mini"), [document[:20_000]], 512)[0][0]


@pytest.mark.parametrize("kind", ["real", "mini"])
def test_a_giant_word_is_cut_short_and_right(kind: str, folders: Path) -> None:
    random = np.random.default_rng(0)
    alphabet = [*string.ascii_letters, *string.digits, "+", "/"]
    base64 = "".join(random.choice(alphabet, 120_000))
    within = [base64[:300] + text + base64 for text in ("[CLS]", "''", "é", "\u0301")]
    giants = [base64, *within, *(unit * (120_000 // len(unit)) for unit in ("a", "ab", "=", "!", "ﷺ"))]
    for limit in (8, 128):
        assert_same(kind, limit, giants, folders)
    fast, _ = made(kind, 128, folders)
    assert len(fast.cutter.enough(base64)) < 2000
    assert fast.cutter.enough(within[0]) == within[0]


def test_a_cache_stays_within_its_bounds_and_changes_nothing() -> None:
    where = checkpoint.resolve("albert-mini")
    texts = [
        " ".join(f"w{number * 37 % 50021}x{number}" for number in range(at, at + 50))
        for at in range(0, 40_000, 50)
    ]
    right = expected(where, texts, 512)
    for words, size in ((1, 1 << 20), (100, 1 << 20), (5000, 1 << 20), (1 << 20, 500), (1 << 20, 40_000)):
        ours = Tokenizer(where, cache_words=words, cache_bytes=size)
        for at in range(0, len(texts), 100):
            assert got(ours, texts[at : at + 100]) == right[at : at + 100]
            assert ours.cache.words <= words
            assert ours.cache.used_bytes <= size
        assert ours.cache.renewals > 0


def test_what_was_seen_is_found() -> None:
    ours = Tokenizer(checkpoint.resolve("albert-mini"))
    text = pa.array(["some words, and some more words"])
    ours.encode(text)
    assert (ours.cache.hits, ours.cache.misses) == (0, 6)
    ours.encode(text)
    assert (ours.cache.hits, ours.cache.misses) == (6, 6)
    before = ours.cache.words
    ours.encode(pa.array(["x" * 129]))
    assert ours.cache.words == before, "a long word was kept"


def replaced(old: Any, new: Any) -> Any:
    """Returns a function that replaces a value anywhere in a part of tokenizer.json."""

    def change(part: Any) -> Any:
        return json.loads(json.dumps(part).replace(json.dumps(old), json.dumps(new)))

    return change


def added(**token: Any) -> Any:
    rest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return lambda tokens: [*tokens, {"id": 7999, **rest, **token}]


SPACE_REPLACED = {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}
REGEX_REPLACED = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "_"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


@pytest.mark.parametrize(
    ("reason", "parts"),
    [
        ("added token", {"added_tokens": added(content="of the")}),
        ("added token", {"added_tokens": added(content="of\u00a0the", normalized=True)}),
        ("pre-tokenizer", {"pre_tokenizer": METASPACE}),
        ("pre-tokenizer", {"pre_tokenizer": replaced("always", "first")}),
        ("pre-tokenizer", {"pre_tokenizer": None}),
        ("normalizer Replace", {"normalizer": SPACE_REPLACED}),
        ("normalizer Replace", {"normalizer": REGEX_REPLACED}),
        ("normalizer Strip", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}),
        ("normalizer Prepend", {"normalizer": {"type": "Prepend", "prepend": "x"}}),
    ],
)
def test_others_go_as_they_are_and_say_so(
    reason: str, parts: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = edited(tmp_path / "odd", **parts)
    with caplog.at_level(logging.INFO, "pipeline"):
        ours = Tokenizer(where, 8)
    said = [message for message in caplog.messages if message.startswith("tokenizer.slow")]
    assert len(said) == 1
    assert reason in said[0]
    assert not ours.by_words
    texts = [
        "of the a b  c",
        "a\u00a0b of\u00a0the",
        " first second",
        "[MASK] x",
        "",
        "many words of the text " * 9,
    ]
    assert got(ours, texts) == expected(where, texts, 8)


def test_probes_that_differ_mean_the_real_tokenizer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.model.tokenizer.unigram.Unigram.cut", wrong_cut)
    with caplog.at_level(logging.INFO, "pipeline"):
        ours = Tokenizer(checkpoint.resolve("albert-mini"))
    assert "reason=probes differ" in caplog.text
    assert got(ours, ["right all the same"]) == expected(ours_folder(), ["right all the same"], 512)


def wrong_cut(_: Any, words: pa.Array) -> tuple[Any, Any]:
    return np.full(len(words), 9), np.ones(len(words), np.int64)


def ours_folder() -> Checkpoint:
    return checkpoint.resolve("albert-mini")


@pytest.mark.parametrize(
    "token",
    [
        {"content": "ofthe"}, {"content": "OfThe", "normalized": True}, {"content": "q", "single_word": True},
        {"content": "É", "normalized": True, "lstrip": True, "rstrip": True},
    ],
)  # fmt: skip
def test_added_tokens_without_whitespace_go_by_words(token: Any, tmp_path: Path) -> None:
    where = edited(tmp_path / "added", added_tokens=added(**token))
    ours = Tokenizer(where)
    assert ours.by_words
    texts = ["so ofthe it, xofthey OFTHE", "q aq q. q", "É e\u0301 x É  y \u00c9\u0301", "a [MASK]  b"]
    assert got(ours, texts) == expected(where, texts, 512)


def test_a_large_vocabulary_has_wide_ids(tmp_path: Path) -> None:
    ours = Tokenizer(wordpiece(tmp_path, more=[f"w{number}" for number in range(70_000)]))
    batch = ours.encode(pa.array(["a w69999"]))
    assert batch.ids.dtype == np.int32
    assert batch.ids.max() > 70_000
