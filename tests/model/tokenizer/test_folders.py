"""Makes the table of docs/tokenizer.md: for each kind of folder, by which rule its ids come, and the proof.

Each kind is a folder with the files and settings of real checkpoints, and a small vocabulary.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, BertTokenizer

from pipeline.config.sections import NO_RULES, TokenizerRules
from pipeline.errors import ModelError
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer.auto_tokenizer import RARE, USUAL, differences
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.languages import HANGUL, google_ids, preprocessed, texts, train
from tests.tokenizers_of import edited, wordpiece

PAGE = Path(__file__).parents[3] / "docs" / "tokenizer.md"
HEAD = "| folder | ids by | checked against | `AutoTokenizer` |\n|---|---|---|---|\n"
SAMPLE = [*USUAL, *RARE, *texts("Hindi", 30), *texts("Korean", 30)]
Ids = Callable[[str], list[int]]


@dataclass(frozen=True)
class Kind:
    """A kind of folder: how it is made, with which rules, and what gives the same ids.

    by: the rule of the ids.  against: the name of the reference.  reference: it, for a folder; None if the
    folder is refused.
    """

    make: Callable[[Path], Path]
    by: str
    against: str = ""
    reference: Callable[[Path], Ids] | None = None
    rules: TokenizerRules = NO_RULES


def packaged(**settings: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        edited(folder)
        return told(folder, settings)

    return make


def spiece(**settings: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        some = [*texts("Hindi", 200, 0), *texts("Korean", 200, 0), *USUAL]
        return told(train(folder, some), settings)

    return make


def vocab(*more: str, **settings: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        where = wordpiece(folder, more).folder
        return told(where, settings)

    return make


def told(folder: Path, settings: dict[str, object]) -> Path:
    path = folder / "tokenizer_config.json"
    path.unlink(missing_ok=True)
    if settings:
        path.write_text(json.dumps(settings))
    return folder


def auto(folder: Path) -> Ids:
    found = AutoTokenizer.from_pretrained(folder)
    return lambda text: list(found(text, add_special_tokens=False)["input_ids"])


def bert(lower: bool) -> Callable[[Path], Ids]:
    def reference(folder: Path) -> Ids:
        found = BertTokenizer.from_pretrained(folder, do_lower_case=lower)
        return lambda text: list(found(text, add_special_tokens=False)["input_ids"])

    return reference


def library(folder: Path) -> Ids:
    found = Backend.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(found.encode(text, add_special_tokens=False).ids)


def google(lower: bool) -> Callable[[Path], Ids]:
    def reference(folder: Path) -> Ids:
        processor = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        return lambda text: google_ids(processor, text, lower)

    return reference


KOREAN = (*HANGUL, *(f"##{letter}" for letter in HANGUL))
GOOGLE, SENTENCEPIECE = "Google's ALBERT", "sentencepiece with Google's preprocessing"
KINDS = {
    "`tokenizer.json`; `AlbertTokenizer`, whose settings fit": Kind(
        packaged(tokenizer_class="AlbertTokenizer", do_lower_case=True), "`tokenizer.json`",
        "`AutoTokenizer`", auto,
    ),
    "`tokenizer.json`; `AlbertTokenizer`, `do_lower_case: false`": Kind(
        packaged(tokenizer_class="AlbertTokenizer", do_lower_case=False), "`tokenizer.json`",
        "the library `tokenizers`", library,
    ),
    "`tokenizer.json`; `PreTrainedTokenizerFast`": Kind(
        packaged(tokenizer_class="PreTrainedTokenizerFast"), "`tokenizer.json`", "`AutoTokenizer`", auto
    ),
    "`tokenizer.json`; `auto_map` to code": Kind(
        packaged(auto_map={"AutoTokenizer": [None, "mine.Fast"]}), "`tokenizer.json`",
        "the library `tokenizers`", library,
    ),
    "`spiece.model` alone": Kind(spiece(), GOOGLE, SENTENCEPIECE, google(True)),
    "`spiece.model`; `AlbertTokenizer`, `do_lower_case: false`": Kind(
        spiece(tokenizer_class="AlbertTokenizer", do_lower_case=False), f"{GOOGLE}, cased", SENTENCEPIECE,
        google(False),
    ),
    "`spiece.model`; `T5Tokenizer`": Kind(spiece(tokenizer_class="T5Tokenizer"), "refused"),
    "`spiece.model` of BPE": Kind(
        lambda folder: train(folder, list(texts("Hindi", 200)), 200, model_type="bpe"), "refused"
    ),
    "`vocab.txt` alone (Chinese)": Kind(vocab(), "BERT, lower-cased", "`BertTokenizer`", bert(True)),
    "`vocab.txt`; `BertTokenizer`": Kind(
        vocab(tokenizer_class="BertTokenizer"), "BERT, lower-cased", "`AutoTokenizer`", auto
    ),
    "`vocab.txt`; `BertTokenizer`, `do_lower_case: false` (Korean)": Kind(
        vocab(*KOREAN, tokenizer_class="BertTokenizer", do_lower_case=False), "BERT, cased",
        "`AutoTokenizer`", auto,
    ),
    "`vocab.txt`; `MPNetTokenizer`": Kind(
        vocab("<s>", "<pad>", "</s>", "<mask>", tokenizer_class="MPNetTokenizer"), "BERT, lower-cased",
        "`AutoTokenizer`", auto,
    ),
    "`vocab.txt` alone (Korean)": Kind(vocab(*KOREAN), "refused"),
    "`vocab.txt` alone (Korean), and `model.tokenizer.lower_case: false`": Kind(
        vocab(*KOREAN), "BERT, cased", "`BertTokenizer`", bert(False), TokenizerRules(lower_case=False)
    ),
    "`vocab.txt`; `BertJapaneseTokenizer` (MeCab)": Kind(
        vocab(tokenizer_class="BertJapaneseTokenizer"), "refused"
    ),
    "`vocab.txt`; `auto_map` to code": Kind(
        vocab(auto_map={"AutoTokenizer": ["mine.Slow", None]}), "refused"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    root, found = tmp_path_factory.mktemp("folders"), dict[str, Checkpoint]()

    def make(name: str) -> Checkpoint:
        if name not in found:
            kind = KINDS[name]
            found[name] = Checkpoint("model", kind.make(root / str(len(found))), rules=kind.rules)
        return found[name]

    return make


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_folder_has_the_ids_of_its_reference_or_is_refused(
    name: str, made: Callable[[str], Checkpoint]
) -> None:
    kind, where = KINDS[name], made(name)
    if kind.reference is None:
        with pytest.raises(ModelError):
            Tokenizer(where)
        return
    ids, ours = kind.reference(where.folder), Tokenizer(where).bare
    assert [ours(text) for text in SAMPLE] == [ids(text) for text in SAMPLE]


def test_the_table_of_the_page_is_what_the_folders_give(made: Callable[[str], Checkpoint]) -> None:
    table = HEAD + "".join(row(name, made(name)) for name in KINDS)
    assert table in PAGE.read_text(), f"put this into {PAGE}:\n{table}"


def row(name: str, where: Checkpoint) -> str:
    kind = KINDS[name]
    if kind.reference is None:
        with pytest.raises(ModelError) as caught:
            Tokenizer(where)
        return f"| {name} | refused: {caught.value.what.replace('model: ', '')} | | |\n"
    why = "; ".join(each.why.removeprefix("AutoTokenizer ") for each in differences(where)) or "the same"
    return f"| {name} | {kind.by} | {kind.against} | {why} |\n"


def test_google_lowers_what_python_lowers() -> None:
    assert preprocessed("  ΘΕΟΣ\x1c``Été''  यहाँ ") == 'θεος "ete" यहाँ'
