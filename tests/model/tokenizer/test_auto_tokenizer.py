"""Checks that what we say of AutoTokenizer is what it does, for each kind of folder."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.config.sections import TokenizerRules
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer.auto_tokenizer import RARE, USUAL, differences
from pipeline.model.tokenizer.hf import load_backend
from tests.conftest import PACKAGED
from tests.languages import texts, train
from tests.tokenizers_of import edited, wordpiece


def really_differs(where: Checkpoint) -> bool:
    """Tells whether AutoTokenizer gives other ids for an example."""
    backend, some = load_backend(where.folder, where.rules), [*USUAL, *RARE]
    theirs = AutoTokenizer.from_pretrained(where.folder)(some, add_special_tokens=False)["input_ids"]
    return [backend.encode(text, add_special_tokens=False).ids for text in some] != theirs


def said(where: Checkpoint) -> str:
    return "\n".join(map(str, differences(where)))


def packaged(folder: Path, settings: dict[str, object]) -> Checkpoint:
    where = edited(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return where


@pytest.mark.parametrize("name", ["AlbertTokenizer", "AlbertTokenizerFast", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("lower", [True, False])
def test_a_tokenizer_json(name: str | None, lower: bool, tmp_path: Path) -> None:
    """transformers builds ALBERT's steps from tokenizer_config.json, and only others from tokenizer.json."""
    where = packaged(tmp_path / "model", {"tokenizer_class": name, "do_lower_case": lower})
    assert (
        bool(differences(where)) == really_differs(where) == (not lower and name != "PreTrainedTokenizerFast")
    )
    if not lower and name != "PreTrainedTokenizerFast":
        assert "follows tokenizer_config.json by the rules of AlbertTokenizer" in said(where)


def test_the_packaged_model_has_the_ids_of_auto_tokenizer() -> None:
    assert differences(Checkpoint("albert-mini", PACKAGED)) == []


@pytest.mark.parametrize(
    ("language", "why", "example"),
    [
        ("Hindi", "drops vowel signs", "'यह एक छोटी कहानी है'"),
        ("Korean", "composes no letters again", ""),
        ("Vietnamese", "takes the vocabulary's own symbols out of words", "'3.14'"),
    ],
)
def test_a_lone_spiece_model(language: str, why: str, example: str, tmp_path: Path) -> None:
    some = [*texts(language, 300), "यह एक छोटी कहानी है 3.14"] * 2
    where = Checkpoint(language, train(tmp_path / "model", some))
    assert really_differs(where)
    assert why in said(where)
    assert example in said(where)


def test_a_vocab_txt(tmp_path: Path) -> None:
    named = wordpiece(tmp_path / "named", tokenizer_class="BertTokenizer")
    assert differences(named) == []
    assert not really_differs(named)
    for settings in ({}, {"tokenizer_class": "AlbertTokenizer"}):
        where = wordpiece(tmp_path / f"{len(settings)}", **settings)
        assert "does not read vocab.txt" in said(where)
        assert really_differs(where)


def test_rules_of_the_config(tmp_path: Path) -> None:
    found = wordpiece(tmp_path / "named", tokenizer_class="BertTokenizer")
    where = Checkpoint("named", found.folder, rules=TokenizerRules(lower_case=False))
    assert "model.tokenizer (lower_case: false) is not known to AutoTokenizer: 'A quick" in said(where)
    assert really_differs(where)


def test_code_of_its_own(tmp_path: Path) -> None:
    where = packaged(tmp_path / "model", {"auto_map": {"AutoTokenizer": ["mine.Slow", "mine.Fast"]}})
    assert said(where) == "AutoTokenizer runs the folder's own code (mine.Fast), if it is trusted"
