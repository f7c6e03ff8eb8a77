"""Checks that a tokenizer belongs to its weights, and that its rules fit its own vocabulary.

Wrong ids silently give wrong vectors. Two signs tell of them before a run: ids that no row of the weights
has, and words of the vocabulary, in any script, that the tokenizer itself does not know.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from pipeline.errors import ModelError
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.tokenizer.classes import settings_of
from pipeline.model.tokenizer.unigram import START

PROBES = (
    "A quick brown fox jumps over 3.14 lazy dogs.", "The city's name (in 1905) was different.", "你好, 世界",
    "यह एक छोटी कहानी है", "এটি একটি ছোট গল্প", "இது ஒரு சிறிய கதை", "นี่คือเรื่องสั้น", "នេះជារឿងខ្លី", "ဒါက ပုံပြင်ပါ",
    "هذه قصة قصيرة", "זה סיפור קצר", "Это короткий рассказ", "Αυτή είναι μια ιστορία", "이것은 짧은 이야기",
    "これは短い話です", "Đây là một câu chuyện",
)  # fmt: skip
"""Texts of which a usable tokenizer knows at least one."""
UNKNOWN = ("<unk>", "[UNK]")
MOSTLY = 0.5
"""The part of unknown tokens above which a tokenizer does not know a text."""
FEWEST, SAMPLED = 10, 40
"""Words of a script from which on the vocabulary holds it, and how many of them are tried."""
NO_TEXT = ("<pad>", "[PAD]", "<mask>", "[MASK]")
"""Special tokens that no text needs."""


def check_vocabulary(backend: Backend, checkpoint: Checkpoint) -> None:
    """Checks that weights, vocabulary and rules are of one checkpoint.

    Raises:
        ModelError: they are not.
    """
    size, rows = backend.get_vocab_size(), checkpoint.size("vocab_size")
    highest = max(backend.get_vocab().values()) + 1
    if highest > rows or size < rows // 2:
        raise ModelError(
            "tokenizer and weights are not of one checkpoint",
            checkpoint.name,
            f"{size} tokens for {rows} rows",
            hint="take both from one checkpoint",
        )
    shares = [_unknown_share(backend, probe) for probe in PROBES]
    if min(shares) > MOSTLY:
        raise ModelError(
            "the tokenizer knows none of our probes",
            checkpoint.name,
            f"{min(shares):.0%} unknown",
            hint="take tokenizer and weights from one checkpoint",
        )
    _refuse_mangled(backend, checkpoint)


def without_needless(backend: Backend, checkpoint: Checkpoint) -> Backend:
    """Returns the tokenizer without the pad and mask tokens that the weights have no row for.

    Such a token is then plain text, as no model was ever trained with it.
    """
    parts = json.loads(backend.to_str())
    rows, needless = checkpoint.size("vocab_size"), {*NO_TEXT, *_named(settings_of(checkpoint.folder))}
    kept = [each for each in parts["added_tokens"] if each["id"] < rows or each["content"] not in needless]
    if len(kept) == len(parts["added_tokens"]) or max(backend.get_vocab(False).values()) >= rows:
        return backend
    return _rebuilt(backend, kept)


def _rebuilt(backend: Backend, added: list[Mapping[str, Any]]) -> Backend:
    """Returns the same tokenizer with other added tokens; its model is taken over, to the last bit."""
    fresh = Backend(backend.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(backend, part)) is not None:
            setattr(fresh, part, value)
    for token in added:
        options = {key: value for key, value in token.items() if key not in ("id", "content")}
        fresh.add_tokens([AddedToken(token["content"], **options)])
    return fresh


def _named(settings: Mapping[str, Any]) -> Iterator[str]:
    for name in ("pad_token", "mask_token"):
        token = settings.get(name)
        found = token.get("content") if isinstance(token, dict) else token
        if isinstance(found, str):
            yield found


def _refuse_mangled(backend: Backend, checkpoint: Checkpoint) -> None:
    """Refuses rules that make most words of a script unknown, though the vocabulary holds them."""
    for script, words in words_by_script(backend).items():
        lost = [word for word in words if _unknown_share(backend, word)]
        if len(words) >= FEWEST and len(lost) > MOSTLY * len(words):
            raise ModelError(
                f"the tokenizer does not know its own vocabulary's words in {script} letters",
                checkpoint.name,
                f"{len(lost)} of {len(words)} unknown: {' '.join(lost[:5])}",
                hint="the folder does not state its rules: set model.tokenizer.lower_case and keep_accents "
                "as the model was trained",
            )


def words_by_script(backend: Backend) -> Mapping[str, list[str]]:
    """Returns for each script some words of the vocabulary, spread over it."""
    found: dict[str, list[str]] = {}
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    for piece, _ in sorted(backend.get_vocab(False).items(), key=lambda item: item[1]):
        word = piece.removeprefix(START)
        if word[:1].isalpha() and piece not in special and all(map(_is_letter_or_mark, word)):
            found.setdefault(script_of(word[0]), []).append(word)
    return {script: words[:: max(1, len(words) // SAMPLED)] for script, words in found.items()}


def _is_letter_or_mark(character: str) -> bool:
    return character.isalpha() or unicodedata.category(character).startswith("M")


@lru_cache(1 << 16)
def script_of(letter: str) -> str:
    """Returns the script of a letter, by its name in Unicode."""
    return unicodedata.name(letter, "UNNAMED").split(" ", 1)[0].split("-")[0].capitalize()


def _unknown_share(backend: Backend, text: str) -> float:
    tokens = backend.encode(text, add_special_tokens=False).tokens
    return sum(token in UNKNOWN for token in tokens) / max(1, len(tokens))
