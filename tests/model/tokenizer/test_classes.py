"""Checks that a tokenizer's class decides whether its files are enough; others are refused by name."""

import json
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import PACKAGED
from tests.languages import texts, train
from tests.tokenizers_of import edited, wordpiece


def settings(folder: Path, **values: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "name", ["BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "AlbertTokenizer", None, ""]
)
def test_a_vocab_txt_of_a_class_that_is_known(name: str | None, tmp_path: Path) -> None:
    assert load_backend(wordpiece(tmp_path, tokenizer_class=name).folder)


@pytest.mark.parametrize(
    "name", ["BertJapaneseTokenizer", "PreTrainedTokenizerFast", "KoBertTokenizer", "RoFormerTokenizer"]
)
def test_a_vocab_txt_of_another_class_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Its words come from MeCab, Jieba or other rules, which the vocabulary does not tell."""
    where = wordpiece(tmp_path, tokenizer_class=name, word_tokenizer_type="mecab")
    message = "vocab.txt alone does not decide the ids .* .got .*; save its tokenizer.json beside it"
    with pytest.raises(ModelError, match=message) as caught:
        load_backend(where.folder)
    assert caught.value.got == name.removesuffix("Fast")
    (tmp_path / "tokenizer.json").write_text((PACKAGED / "tokenizer.json").read_text())
    assert load_backend(where.folder), "tokenizer.json states all steps"


def test_the_class_of_config_json_counts_where_the_tokenizer_names_none(tmp_path: Path) -> None:
    where = wordpiece(tmp_path).folder
    config = json.loads((where / "config.json").read_text()) | {"tokenizer_class": "BertJapaneseTokenizer"}
    (where / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config.json: .*BertJapaneseTokenizer"):
        load_backend(where)
    assert load_backend(settings(where, tokenizer_class="BertTokenizer"))


def test_a_spiece_model_of_another_class_is_refused_by_name(tmp_path: Path) -> None:
    where = train(tmp_path / "model", list(texts("Hindi", 200)), 200)
    for name in ("XLNetTokenizer", "T5Tokenizer", "XLMRobertaTokenizerFast", "BertJapaneseTokenizer"):
        with pytest.raises(ModelError, match="spiece.model alone does not decide the ids"):
            load_backend(settings(where, tokenizer_class=name))
    for name in ("AlbertTokenizer", "AlbertTokenizerFast"):
        assert load_backend(settings(where, tokenizer_class=name))


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["mine.Slow", None]}, ["mine.Slow", None]])
def test_code_of_its_own_is_refused_unless_a_tokenizer_json_states_the_steps(
    auto_map: object, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="code of its own, which is never run .got mine.Slow"):
        load_backend(settings(wordpiece(tmp_path / "vocab").folder, auto_map=auto_map))
    assert load_backend(settings(edited(tmp_path / "json").folder, auto_map=auto_map))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"model_type": "bpe"}, "is not a Unigram model"),
        ({"treat_whitespace_as_suffix": True}, "marks the ends of words"),
        ({"add_dummy_prefix": False}, "does not mark a text's first word"),
    ],
)
def test_a_sentencepiece_model_of_another_kind_is_refused(
    kind: dict[str, object], message: str, tmp_path: Path
) -> None:
    where = train(tmp_path / "model", list(texts("Hindi", 200)), 200, **kind)
    with pytest.raises(ModelError, match=message):
        load_backend(where)


def test_a_tokenizer_takes_what_an_encoder_takes(tmp_path: Path) -> None:
    ids = {Tokenizer(model).name: Tokenizer(model).bare("one") for model in ("albert-mini", PACKAGED)}
    assert len({tuple(each) for each in ids.values()}) == 1
