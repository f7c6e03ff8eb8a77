# ruff: noqa: RUF001  (look-alikes are what is tested)
"""Checks that a lone `spiece.model` gives Google's ids in many scripts, and for every assigned code point."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.languages import SYLLABLES, google_ids, preprocessed, texts, train, trained
from tests.tokenizers_of import assert_same

RULES = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")
COMPOSED_ANYWAY = "\U00011938"
"""A vowel sign of Dives Akuru, which the library composes, and Python's NFKD takes apart."""
NOT_IGNORED = "\U0001171e"
"""A sign of Ahom that was not a mark when the library's tables were made; it matters beside a Σ."""
NEAR = 1e-3
"""The difference of two cuts' scores within which adding in float32 may decide."""
WRONG_IN_AUTO = {"Hindi", "Bengali", "Tamil", "Thai", "Khmer", "Burmese", "Korean"}
"""The languages of which `AutoTokenizer` cuts nearly every text otherwise.

It drops vowel signs, and does not compose Hangul.
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("languages")


@pytest.fixture(scope="module")
def folder_of(folders: Path) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(language: str) -> Path:
        if language not in made:
            made[language] = trained(folders, language)
        return made[language]

    return make


def compare(folder: Path, some: list[str]) -> list[str]:
    """Returns the texts that are near ties; fails at any other difference from Google's ids."""
    processor = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    tokenizer = Tokenizer(folder, 512)
    assert tokenizer.by_words
    batch = tokenizer.encode(pa.array(some, pa.large_string()))
    near = []
    for text, start, stop in zip(some, batch.offsets[:-1], batch.offsets[1:], strict=True):
        ours, theirs = batch.ids[start + 1 : stop - 1].tolist(), google_ids(processor, text)
        if ours != theirs:
            scores = [sum(map(processor.get_score, ids)) for ids in (ours, theirs)]
            assert abs(scores[0] - scores[1]) < NEAR, (text, ours, theirs)
            near.append(text)
    return near


@pytest.mark.parametrize("language", SYLLABLES)
def test_the_ids_of_a_language_are_those_of_google(language: str, folder_of: Callable[[str], Path]) -> None:
    assert len(compare(folder_of(language), list(texts(language, 300)))) <= 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("language", SYLLABLES)
def test_the_ids_of_many_texts_are_those_of_google(language: str, folder_of: Callable[[str], Path]) -> None:
    near = compare(folder_of(language), list(texts(language, 10_000, seed=2)))
    print(f"{language}: {len(near)} near ties in 10,000 texts {near[:3]}")
    assert len(near) <= 100


def test_what_auto_tokenizer_gets_wrong(folder_of: Callable[[str], Path]) -> None:
    wrong = {}
    for language in SYLLABLES:
        folder, some = folder_of(language), list(texts(language, 60))
        processor = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        auto = AutoTokenizer.from_pretrained(folder)(some, add_special_tokens=False)["input_ids"]
        wrong[language] = sum(
            ids != google_ids(processor, text) for ids, text in zip(auto, some, strict=True)
        )
    print(wrong)
    assert {language for language, count in wrong.items() if count > 50} == WRONG_IN_AUTO


@pytest.mark.parametrize(
    "text", ["यहाँ यह", "में मे", "ΟΔΥΣΣΕΥΣ ΘΕΟΣ.", "한국어", "ตั้ง ตง", "a\x1cb", "a\x0bb", "㋿", "3️⃣"]
)
def test_marks_that_count_are_kept(text: str, tmp_path: Path) -> None:
    """Two words that differ in a vowel sign alone have different ids."""
    folder = train(tmp_path, [text, "यहाँ यह में मे", "οδυσσευς θεος", "한국어 ตั้ง ตง", "a b 3 令和"] * 9, 80)
    assert compare(folder, [text]) == []


def assigned(step: int = 1) -> list[str]:
    """Returns the assigned code points of one page of 256 in `step`."""
    codes = (code for code in range(0x110000) if (code >> 8) % step == 0 or code < 0x1200)
    return [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cn", "Cs")]


def normal_forms_differ(
    rule: str, characters: list[str], folder: Path, lower: bool = True, accents: bool = False
) -> list[str]:
    """Returns the characters for which our normal form is not Google's with sentencepiece's map."""
    where = train(folder, ["ab cd 가나 कखग", "αβγ"] * 30, 60, rule)
    processor = SentencePieceProcessor(model_file=str(where / "spiece.model"))
    (where / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": lower, "keep_accents": accents})
    )
    normalize = load_backend(where).normalizer.normalize_str

    def differs(text: str) -> bool:
        ours = "".join(f"▁{word}" for word in normalize(text).split())
        return bool(ours != processor.normalize(preprocessed(text, lower, accents)))

    within = [(c, f"ab{c}c가{c}क{c}\u0301 {c}x{c}") for c in characters]
    return [c for c, text in [*within, *((c, f"Α{c}Σ ΑΣ{c}") for c in characters)] if differs(text)]


def test_the_normal_form_of_a_part_of_all_code_points(tmp_path: Path) -> None:
    assert normal_forms_differ("nmt_nfkc", unlike(assigned(16)), tmp_path / "maps") == []
    assert normal_forms_differ("identity", unlike(assigned(64)), tmp_path / "none") == []
    for lower in (True, False):
        assert normal_forms_differ("nmt_nfkc_cf", unlike(assigned(64)), tmp_path / f"{lower}", lower) == []


def test_a_mark_behind_what_the_map_changes_stays_with_kept_accents(tmp_path: Path) -> None:
    characters = [*"ABΣςßſ①㍿½"]
    for rule in RULES:
        assert normal_forms_differ(rule, characters, tmp_path / rule, lower=False, accents=True) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_the_normal_form_of_every_assigned_code_point(rule: str, lower: bool, tmp_path: Path) -> None:
    assert normal_forms_differ(rule, unlike(assigned()), tmp_path / rule, lower) == []


def unlike(characters: list[str]) -> list[str]:
    """Leaves out the exceptions, and sentencepiece's own sign for a space."""
    return [each for each in characters if each not in (COMPOSED_ANYWAY, NOT_IGNORED, "▁")]


def many_scripts(folder: Path, rule: str) -> Checkpoint:
    """Trains one vocabulary on all languages."""
    some = [text for language in SYLLABLES for text in texts(language, 150, seed=0)]
    return Checkpoint(rule, train(folder / rule, some, 3000, rule))


def around(characters: list[str]) -> list[str]:
    """Returns texts with each character at the start, in the middle and at the end of words, by all cuts."""
    return [f"가{c}Σ {c}e Σ{c} क{c}\t{c}\r{c}{c}\n{c}\u0301 h" for c in characters]


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity"])
def test_words_are_as_good_as_texts(rule: str, tmp_path: Path) -> None:
    where = many_scripts(tmp_path, rule)
    assert_same(where, 512, around(assigned(32)))
    assert_same(where, 32, [text for language in SYLLABLES for text in texts(language, 60)])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rule", RULES)
def test_words_are_as_good_as_texts_for_every_assigned_code_point(rule: str, tmp_path: Path) -> None:
    where, characters = many_scripts(tmp_path, rule), assigned()
    for at in range(0, len(characters), 10_000):
        assert_same(where, 512, around(characters[at : at + 10_000]))
