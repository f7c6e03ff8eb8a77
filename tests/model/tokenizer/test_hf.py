# ruff: noqa: RUF001  (look-alikes are what is tested)
"""Checks that ids are Google's for a `spiece.model`, and that a tokenizer of other weights is refused."""

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from jobs import docstrings
from pipeline.errors import ModelError, TokenizerError
from pipeline.model import checkpoint
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import PACKAGED
from tests.languages import google_ids
from tests.tokenizers_of import edited, make_folder, real_folder, wordpiece


@pytest.fixture(scope="module")
def both() -> tuple[Callable[[str], list[int]], Callable[[str], list[int]]]:
    """Returns functions for Google's ids and for ours, without special tokens."""
    processor = SentencePieceProcessor(model_file=str(real_folder() / "spiece.model"))
    backend = load_backend(real_folder())
    return (
        lambda text: google_ids(processor, text),
        lambda text: list(backend.encode(text, add_special_tokens=False).ids),
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "3.14 (or so)", "The city's name - in 1905 - was ``different''.", "£5 or €6 – or $7",
        "in 2005, 1,000 and 10,000,000, or so", "9, 19, 199, 1999,", "Crème brûlée, naïve café", "a\u0301b",
        "Ａｌｂｅｒｔ ﬁne ½", "tabs\tand\nlines  and   spaces", "你好, 世界", "<br /> & so on...", "ΑΣ Σ",
    ],
)  # fmt: skip
def test_a_bare_spiece_model_is_cut_as_google_does(both: tuple[Callable, Callable], text: str) -> None:
    assert both[1](text) == both[0](text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fail!!!!", "a tie: sentencepiece adds in float32, tokenizers in float64"),
        ("a [CLS] b", "special tokens within a text: Google cuts them as text, transformers does not"),
    ],
)
def test_where_google_differs(both: tuple[Callable, Callable], text: str, why: str) -> None:
    assert both[1](text) != both[0](text), why


@pytest.mark.parametrize("rows", [100, 15_999, 60_000])
def test_a_tokenizer_of_other_weights_is_refused(rows: int, tmp_path: Path) -> None:
    text = (PACKAGED / "tokenizer.json").read_text()
    with pytest.raises(ModelError, match="not of one checkpoint"):
        Tokenizer(make_folder(tmp_path, rows, tokenizer_json=text))


def test_a_tokenizer_that_knows_nothing_is_refused(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lorem", "ipsum"]
    with pytest.raises(ModelError, match="none of our probes"):
        Tokenizer(make_folder(tmp_path, len(tokens), vocab_txt="\n".join(tokens)))


def test_what_can_not_be_read_or_honoured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        Tokenizer(make_folder(tmp_path / "none", 10))
    with pytest.raises(ModelError, match="can't be read"):
        Tokenizer(make_folder(tmp_path / "broken", 10, tokenizer_json="{"))
    with pytest.raises(
        ModelError, match=r"tokenizer_config\.json: truncation_side is unknown .got 'middle'."
    ):
        Tokenizer(wordpiece(tmp_path / "middle", truncation_side="middle"))


def test_a_side_that_only_tokenizer_json_states_is_asked_for(tmp_path: Path) -> None:
    backend = Backend.from_file(str(PACKAGED / "tokenizer.json"))
    backend.enable_truncation(8, direction="left")
    rows = backend.get_vocab_size()
    with pytest.raises(
        ModelError, match="truncation_side is missing, and tokenizer.json truncates on the left"
    ):
        Tokenizer(make_folder(tmp_path, rows, tokenizer_json=backend.to_str()))


def test_texts_lose_tokens_on_the_side_that_the_folder_states(tmp_path: Path) -> None:
    settings = json.loads((PACKAGED / "tokenizer_config.json").read_text()) | {"truncation_side": "left"}
    rows = Backend.from_file(str(PACKAGED / "tokenizer.json")).get_vocab_size()
    text = (PACKAGED / "tokenizer.json").read_text()
    folder = make_folder(tmp_path, rows, tokenizer_json=text).folder
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    texts = ["one two three four five six seven eight", "short", "", "x" * 300, "naïve café " * 9]
    theirs = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=6)["input_ids"]
    ours = Tokenizer(folder, 6)
    assert not ours.by_words
    found = ours.encode(pa.array(texts))
    assert [each.tolist() for each in np.split(found.ids, found.offsets[1:-1])] == theirs
    assert found.truncated.tolist() == [True, False, False, True, True]
    assert len(ours.bare(texts[0])) > 6
    with pytest.raises(ModelError, match="pairs of texts lose tokens on the right"):
        ours.refuse_other_pairs()


@pytest.mark.parametrize("character", "=-*_.#~")
def test_scores_are_read_to_the_last_bit(character: str) -> None:
    """Cuts of a repeated character are often ties, so a score that is misread by one bit changes them."""
    texts = [character * length for length in range(1, 200)]
    real = AutoTokenizer.from_pretrained(PACKAGED)(texts)["input_ids"]
    assert [each.ids for each in load_backend(PACKAGED).encode_batch(texts)] == real


def test_every_docstring_of_the_library_has_the_ids_that_transformers_gives() -> None:
    texts = [each["docstring"] for each in docstrings.docstrings(Path(sysconfig.get_path("stdlib")))]
    real = AutoTokenizer.from_pretrained(PACKAGED)(texts, truncation=True, max_length=512)["input_ids"]
    ours = Tokenizer(checkpoint.resolve("albert-mini")).encode(pa.array(texts, pa.large_string()))
    assert [ids.tolist() for ids in np.split(ours.ids, ours.offsets[1:-1])] == real


def test_a_folder_of_vocab_txt_is_bert_wordpiece(tmp_path: Path) -> None:
    where = wordpiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    tokens = load_backend(where.folder).encode("Hello, 你好 Café unknown").tokens
    assert tokens == ["[CLS]", "hello", ",", "你", "好", "cafe", "un", "##know", "##n", "[SEP]"]


NOWHERE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[NOWHERE]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "YWJjZA=="}}, "can't be read"),
        ({"post_processor": NOWHERE}, "the tokenizer fails at our probes"),
    ],
)
def test_a_tokenizer_that_panics_is_a_model_that_is_refused(
    tmp_path: Path, parts: dict[str, object], message: str
) -> None:
    """The panic is in the library's Rust, and is not an `Exception`."""
    with pytest.raises(ModelError, match=message) as raised:
        Tokenizer(edited(tmp_path / "model", **parts))
    assert type(raised.value.__cause__).__name__ == "PanicException"


def test_a_text_that_can_not_be_cut_is_told_and_spoils_no_other(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+a+)+b"}, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer(edited(tmp_path / "model", pre_tokenizer=split), max_tokens=8)
    deadly, fine = "a" * 40 + "c", "hello, " * 20
    before = tokenizer.encode(pa.array([fine])).ids.tolist()
    for ask in (lambda: tokenizer.encode(pa.array([fine, deadly])), lambda: tokenizer.bare(deadly)):
        with pytest.raises(TokenizerError, match="can't cut a text .got Onig.*retry-limit"):
            ask()
        assert tokenizer.encode(pa.array([fine])).ids.tolist() == before
