"""Makes texts of many languages from the letters of their scripts, and trains vocabularies.

A text is a row of words of a made-up lexicon, whose words are random syllables as the script writes them.
Nothing is taken from a corpus.
"""

import io
import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

Syllable = Callable[[random.Random], str]
LEXICON, SENTENCES, VOCABULARY = 500, 1200, 900
"""Words of a language's lexicon, sentences to train on, and most pieces of the vocabulary."""


def letters(*ranges: tuple[int, int]) -> list[str]:
    """Returns the assigned characters of ranges of code points, both ends included."""
    found = [chr(code) for first, last in ranges for code in range(first, last + 1)]
    return [each for each in found if unicodedata.category(each) != "Cn"]


def written(*parts: tuple[list[str], float]) -> Syllable:
    """Returns a function that makes a syllable: of each part, one character, as often as the part says."""

    def syllable(chance: random.Random) -> str:
        return "".join(chance.choice(some) for some, often in parts if chance.random() < often)

    return syllable


def _indic(block: int, nukta: bool = True) -> Syllable:
    """Returns syllables of a script that is laid out as Devanagari is."""
    consonants = letters((block + 0x15, block + 0x39))
    marks = letters((block + 0x01, block + 0x03))
    return written(
        (consonants, 1), (letters((block + 0x3C, block + 0x3C)) if nukta else [""], 0.05),
        (letters((block + 0x4D, block + 0x4D)), 0.2), (consonants, 0.2),
        (letters((block + 0x3E, block + 0x4C)), 0.7), (marks, 0.15),
    )  # fmt: skip


KHMER, BURMESE, KANA = letters((0x1780, 0x17A2)), letters((0x1000, 0x1020)), letters((0x3041, 0x3093))
HANGUL = [chr(0xAC00 + 37 * number) for number in range(300)]
SYLLABLES: dict[str, Syllable] = {
    "Hindi": _indic(0x900),
    "Bengali": _indic(0x980),
    "Tamil": _indic(0xB80, nukta=False),
    "Thai": written(
        (letters((0xE40, 0xE44)), 0.3), (letters((0xE01, 0xE2E)), 1), (letters((0xE30, 0xE39)), 0.6),
        (letters((0xE47, 0xE4D)), 0.4),
    ),
    "Khmer": written(
        (KHMER, 1), (["\u17d2" + each for each in KHMER], 0.3), (letters((0x17B6, 0x17C5)), 0.7),
        (letters((0x17C6, 0x17D1)), 0.3),
    ),
    "Burmese": written(
        (BURMESE, 1), (letters((0x103B, 0x103E)), 0.3), (letters((0x102B, 0x1032)), 0.7),
        (letters((0x1036, 0x103A)), 0.4),
    ),
    "Arabic with harakat": written(
        (letters((0x621, 0x63A), (0x641, 0x64A)), 1), (letters((0x64B, 0x652)), 0.7)
    ),
    "Hebrew with niqqud": written(
        (letters((0x5D0, 0x5EA)), 1), (letters((0x5B0, 0x5BC), (0x5C1, 0x5C2)), 0.7)
    ),
    "Vietnamese": written(
        (list("bcdđghklmnpqrstvx"), 0.9),
        (list("aăâeêioôơuưyáàảãạắằẳẵặấầẩẫậéèẻẽẹếềểễệíìỉĩịóòỏõọốồổỗộớờởỡợúùủũụ"), 1),
        (list("cmnpt"), 0.4),
    ),
    "Korean": written((HANGUL, 1)),
    "Japanese": written((KANA, 0.7), (letters((0x30A1, 0x30F3)), 0.3), (letters((0x65E5, 0x6650)), 0.3)),
    "Chinese": written((letters((0x4E00, 0x4F00)), 1)),
    "Greek": written((list("βγδζθκλμνπρστφχ"), 0.8), (list("αεηιουωάέήίόύώ"), 1), (["ς"], 0.1)),
}  # fmt: skip
UNSPACED = ("Thai", "Khmer", "Burmese", "Japanese", "Chinese")
"""Languages that put no spaces between words."""


@cache
def _lexicon(language: str) -> list[str]:
    chance = random.Random(language)
    return ["".join(SYLLABLES[language](chance) for _ in range(chance.randint(1, 4))) for _ in range(LEXICON)]


def texts(language: str, count: int, seed: int = 1) -> Iterator[str]:
    """Yields texts: words of the lexicon, and a few words that are not in it, capitals and numbers."""
    chance, words = random.Random(f"{language} {seed}"), _lexicon(language)
    gap = "" if language in UNSPACED else " "
    for _ in range(count):
        some = chance.choices(words, [1 / (rank + 3) for rank in range(len(words))], k=chance.randint(3, 14))
        if chance.random() < 0.3:
            some.append("".join(SYLLABLES[language](chance) for _ in range(3)))
        if chance.random() < 0.2:
            some.append(chance.choice(["2026", "1,905,", "Word", "ÀÉ", "❤️", "3️⃣", "!", "?"]))
        if chance.random() < 0.2:
            some[0] = some[0].upper()
        chance.shuffle(some)
        middle = len(some) // 2
        yield gap.join(some[:middle]) + " " + gap.join(some[middle:])


def preprocessed(text: str, lower: bool = True, accents: bool = False) -> str:
    """Does the same as preprocess_text of google-research/albert, tokenization.py; or keeps accents."""
    text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
    if not accents:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.lower() if lower else text


def google_ids(processor: SentencePieceProcessor, text: str, lower: bool = True) -> list[int]:
    """Does the same as Google's preprocess_text, encode_pieces, and then ids."""
    pieces: list[str] = []
    for piece in processor.encode(preprocessed(text, lower), out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            cut = processor.encode(piece[:-1].replace("▁", ""), out_type=str)
            if piece[0] != "▁" and cut[0][0] == "▁":
                cut = cut[1:] if len(cut[0]) == 1 else [cut[0][1:], *cut[1:]]
            pieces += [*cut, ","]
        else:
            pieces.append(piece)
    return [int(number) for number in processor.piece_to_id(pieces)]


def train(
    folder: Path, sentences: list[str], size: int = VOCABULARY, rule: str = "nmt_nfkc", **options: Any
) -> Path:
    """Trains a `spiece.model` with the options that ALBERT's README gives, and writes its folder."""
    model = io.BytesIO()
    as_albert: dict[str, Any] = {
        "vocab_size": size, "hard_vocab_limit": False, "model_type": "unigram", "character_coverage": 1.0,
        "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
        "user_defined_symbols": ["(", ")", '"', "-", ".", "–", "£", "€"],  # noqa: RUF001
        "normalization_rule_name": rule, "minloglevel": 2, "num_threads": 1,
    }  # fmt: skip
    lines = iter([preprocessed(each) for each in sentences])
    SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **(as_albert | options))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    rows = SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    config = {"model_type": "albert", "vocab_size": rows, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def trained(folder: Path, language: str) -> Path:
    """Trains the vocabulary of a language."""
    return train(folder / language, list(texts(language, SENTENCES, seed=0)))
