"""Checks that rules which do not fit a vocabulary are refused, and ids that no text can get are not."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from pipeline.config.sections import TokenizerRules
from pipeline.errors import ModelError
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.languages import HANGUL, texts, train
from tests.tokenizers_of import assert_same, edited, wordpiece

KOREAN = [*HANGUL, *(f"##{letter}" for letter in HANGUL)]


def ruled(where: Checkpoint, **rules: bool) -> Checkpoint:
    return Checkpoint(where.name, where.folder, rules=TokenizerRules(**rules))


def test_rules_that_take_a_script_apart_are_refused_and_the_config_can_state_others(tmp_path: Path) -> None:
    """BERT's default takes Hangul apart, which leaves `[UNK]` alone; English does not show it."""
    where = wordpiece(tmp_path, more=KOREAN)
    message = "its own vocabulary's words in Hangul letters .got .*unknown: 가.*model.tokenizer.lower_case"
    with pytest.raises(ModelError, match=message):
        Tokenizer(where)
    for rules in ({"lower_case": False}, {"keep_accents": True}):
        tokenizer = Tokenizer(ruled(where, **rules))
        assert tokenizer.backend.encode("가" + HANGUL[3]).tokens[1:-1] == ["가", f"##{HANGUL[3]}"]
        assert_same(ruled(where, **rules), 32, list(texts("Korean", 50)))
    assert len(Tokenizer(ruled(where, keep_accents=True)).bare("Hello")) == 1, "lower-cased all the same"


def test_a_vocabulary_that_a_rule_thins_out_a_little_is_used(tmp_path: Path) -> None:
    assert Tokenizer(wordpiece(tmp_path, more=["Capital", "Ελλάδα", "Й", "ก", *"абвгдежзиклмн"]))


def test_a_vocabulary_of_one_script_alone_is_used(tmp_path: Path) -> None:
    where = train(tmp_path / "model", ["नमस्ते यह एक छोटी कहानी है", *texts("Hindi", 300)], 300)
    assert Tokenizer(where).by_words


def test_what_tokenizer_json_states_can_not_be_overridden(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"model.tokenizer: tokenizer.json states its own rules .got lower_case"
    ):
        Tokenizer(ruled(edited(tmp_path), lower_case=False))


def test_a_lone_spiece_model_follows_the_rules_of_the_config(tmp_path: Path) -> None:
    where = Checkpoint("x", train(tmp_path / "model", ["abc ÀÉ àé ABC É é A B C"] * 50, 60))
    normal = [
        load_backend(where.folder, rules).normalizer.normalize_str("ÀB")
        for rules in (TokenizerRules(), TokenizerRules(lower_case=False), TokenizerRules(keep_accents=True))
    ]
    assert normal == ["ab", "AB", "àb"]


def with_tokens(folder: Path, rows: int, **named: str) -> Checkpoint:
    """Adds tokens behind the vocabulary of albert-mini, whose weights have as many rows as told."""

    def more(tokens: list[dict[str, object]]) -> list[dict[str, object]]:
        last = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        kept = [token for token in tokens if token["content"] not in named.values()]
        return [
            *kept,
            *({"id": 16_000 + at, "content": name, **last} for at, name in enumerate(named.values())),
        ]

    where = edited(folder, added_tokens=more)
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    values = json.loads((folder / "config.json").read_text()) | {"vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(values))
    return where


def test_a_pad_or_mask_without_a_row_is_plain_text(tmp_path: Path) -> None:
    """A Japanese checkpoint has both behind its vocabulary; no model was trained with them."""
    where = with_tokens(tmp_path, 16_000, pad_token="[PAD]", mask_token="[BLANK]")
    tokenizer = Tokenizer(where)
    ids = tokenizer.encode(pa.array(["a [BLANK] b [PAD]", "a [CLS] b"])).ids
    assert ids.max() < 16_000
    assert tokenizer.by_words
    assert 2 in ids[1:-1]


def test_another_token_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not of one checkpoint"):
        Tokenizer(with_tokens(tmp_path, 16_000, cls_token="[OTHER]"))


def test_a_spiece_model_needs_neither_pad_nor_mask(tmp_path: Path) -> None:
    where = train(tmp_path / "model", list(texts("Japanese", 300)), 300, control_symbols=["<s>", "</s>"])
    with pytest.raises(ModelError, match=r"lacks special tokens .got \[CLS\], \[SEP\]"):
        load_backend(where)
    named = {"cls_token": {"content": "<s>"}, "sep_token": "</s>", "mask_token": "[MASK]"}
    (where / "tokenizer_config.json").write_text(json.dumps(named))
    tokens = Tokenizer(where).backend.encode("[MASK]").tokens
    assert (tokens[0], tokens[-1], "[MASK]" in tokens) == ("<s>", "</s>", False)


def basic(text: str) -> str:
    """Does what BERT's basic tokenizer does to marks: NFD, then nothing of category Mn."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def test_bert_drops_the_marks_of_category_mn() -> None:
    """The library has the tables of BERT's own time; of what is newer, AutoTokenizer gives the same ids."""
    strip = normalizers.BertNormalizer(False, False, True, False)
    codes = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    differ = [c for c in codes if strip.normalize_str(f"a{c}b") != basic(f"a{c}b")]
    assert len(differ) == 386
    assert {unicodedata.category(c) for c in differ} <= {"Mn", "Mc", "Lo"}
    old = [range(0x300, 0x7FD), range(0x900, 0x9FE), range(0xE00, 0xEBA), range(0x1000, 0x1734)]
    assert not [c for c in differ if any(ord(c) in some for some in old)]


def test_a_vocab_txt_has_the_ids_of_auto_tokenizer_in_every_script(tmp_path: Path) -> None:
    letters = [chr(code) for code in range(0xA0, 0x3100) if chr(code).isalnum()]
    where = wordpiece(tmp_path, more=letters, tokenizer_class="BertTokenizer")
    auto = AutoTokenizer.from_pretrained(where.folder)
    some = [
        text for language in ("Hindi", "Thai", "Greek", "Hebrew with niqqud") for text in texts(language, 40)
    ]
    backend = load_backend(where.folder)
    assert [backend.encode(text).ids for text in some] == auto(some)["input_ids"]
