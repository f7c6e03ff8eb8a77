"""Decides whether a tokenizer can work word by word, and tokenizes new words.

Owns the criterion: a tokenizer works word by word only if each of its parts (normalizer, pre-tokenizer,
model, added tokens) is known to keep words apart. This is an argument about kinds of parts, tested over every
code point; the probes that run when a tokenizer is loaded are only a guard.

Invariant: a word's ids are those of the real tokenizer. `Unigram` cuts the words that provably reach the
model as one piece; all others, and all words of other models, go through the real tokenizer.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer as Backend

from pipeline.model.tokenizer import google_albert
from pipeline.model.tokenizer.unigram import START, Unigram
from pipeline.ragged import Ints, interleave

Json = Mapping[str, Any]

NORMALIZERS = {
    "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase", "Precompiled", "Nmt", "BertNormalizer",
}  # fmt: skip
"""Normalizers that change no character across whitespace."""
MANY_SPACES = {"pattern": {"Regex": " {2,}"}, "content": " "}
"""A replacement that transformers writes; the pre-tokenizer cuts there anyway."""
METASPACE = {"type": "Metaspace", "replacement": START, "prepend_scheme": "always", "split": True}
PRE_TOKENIZERS = {
    "Unigram": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]},
    "WordPiece": {"type": "BertPreTokenizer"},
}
"""For each model, the one pre-tokenizer that is known to cut at whitespace and to treat all words alike."""
POST_PROCESSORS = {None, "TemplateProcessing", "BertProcessing", "RobertaProcessing"}
"""Post-processors that put special tokens around a text and change nothing within it."""
SPACE = r"\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
"""Unicode's White_Space characters, at which the pre-tokenizer cuts."""


def why_not_by_word(backend: Backend) -> str | None:
    """Returns the reason why texts can't be tokenized word by word; None if they can."""
    parts = json.loads(backend.to_str())
    model = parts["model"]["type"]
    for step in steps(parts["normalizer"]):
        if not _keeps_words_apart(step):
            return f"normalizer {step['type']}"
    if model not in PRE_TOKENIZERS:
        return f"model {model}"
    if parts["pre_tokenizer"] != PRE_TOKENIZERS[model]:
        return "pre-tokenizer"
    if (parts["post_processor"] or {}).get("type") not in POST_PROCESSORS:
        return "post-processor"
    for token in parts["added_tokens"]:
        if any(re.search(r"\s", text) or not text for text in _spellings(backend, token["content"])):
            return f"added token {token['content']!r}"
    return None


def _keeps_words_apart(step: Json) -> bool:
    if step["type"] != "Replace":
        return step["type"] in NORMALIZERS
    if "Regex" in step["pattern"]:
        is_known = step.items() >= MANY_SPACES.items()
        return is_known or google_albert.patterns().get(step["pattern"]["Regex"]) == step["content"]
    pattern = step["pattern"].get("String", "")
    return bool(pattern) and not re.search(r"\s", pattern)


def steps(normalizer: Json | None) -> Iterator[Json]:
    """Yields the steps of a normalizer, those of sequences within it too."""
    if normalizer and normalizer["type"] == "Sequence":
        for step in normalizer["normalizers"]:
            yield from steps(step)
    elif normalizer:
        yield normalizer


def _spellings(backend: Backend, content: str) -> set[str]:
    """Returns an added token as it appears in texts and in normalised texts."""
    return {content, backend.normalizer.normalize_str(content) if backend.normalizer else content}


class Cutter:
    """Cuts words by the real tokenizer's rules.

    Args:
        limit: the token ids of a text that are kept; a giant word needs at most one more.
    """

    def __init__(self, backend: Backend, limit: int) -> None:
        parts = json.loads(backend.to_str())
        added = [text for token in parts["added_tokens"] for text in _spellings(backend, token["content"])]
        patterns = [step.get("pattern", {}) for step in steps(parts["normalizer"])]
        replaced = [pattern["String"] for pattern in patterns if "String" in pattern]
        self.backend, self.limit = backend, limit
        self.unigram = _unigram(parts["model"])
        self.normalize = backend.normalizer.normalize_str if backend.normalizer else str
        self.normalize_rest = _without_first_replacements(parts["normalizer"]) or self.normalize
        self.lowers = self.normalize("A") == "a"
        self.plain = self._plain_characters()
        self.added, self.replaced = _any_of(added), "(?i)" + _any_of(replaced)
        self.longest_piece = max(map(len, backend.get_vocab()))
        self.margin = max(map(len, [*added, *replaced, "a"]))

    def cut(self, words: pa.Array) -> tuple[npt.NDArray[Any], Ints]:
        """Returns the ids of all words, and the number of each word's ids."""
        if self.unigram is None:
            return self._by_backend(words.to_pylist())
        normal = self._normalized(words)
        sure = pc.and_not(
            pc.match_substring_regex(normal, f"^[^{SPACE}{START}]+$"),
            pc.or_(pc.match_substring_regex(words, self.added), pc.match_substring_regex(normal, self.added)),
        )
        others = self._by_backend(words.filter(pc.invert(sure)).to_pylist())
        return interleave(sure.to_numpy(zero_copy_only=False), self.unigram.cut(normal.filter(sure)), others)

    def cut_long(self, words: pa.Array) -> tuple[npt.NDArray[Any], Ints]:
        """Does the same as `cut` for words of any length, by the real tokenizer, or cuts only their start."""
        return self._by_backend([self.enough(word) for word in words.to_pylist()])

    def _normalized(self, words: pa.Array) -> pa.Array:
        """Returns each word as the model gets it."""
        replaced = pc.match_substring_regex(words, self.replaced)
        plain = pc.and_not(pc.match_substring_regex(words, self.plain), replaced)
        others = pc.invert(plain)
        normal = [
            self.normalize(word) if first else self.normalize_rest(word)
            for word, first in zip(
                words.filter(others).to_pylist(), replaced.filter(others).to_pylist(), strict=True
            )
        ]
        lowered = pc.ascii_lower(words) if self.lowers else words
        return pc.replace_with_mask(lowered, others, pa.array(normal, words.type))

    def _plain_characters(self) -> str:
        """Returns a pattern of words that normalizing only lowers, or leaves alone, if nothing is replaced.

        The steps of `NORMALIZERS` process printable ASCII one character at a time, so trying each is a proof.
        """
        printable = [chr(code) for code in range(0x21, 0x7F)]
        same = [c for c in printable if self.normalize(c) == (c.lower() if self.lowers else c)]
        return f"^[{re.escape(''.join(same))}]+$" if same else NEVER

    def _by_backend(self, words: Sequence[str]) -> tuple[npt.NDArray[np.int64], Ints]:
        ids = self._ids(words)
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), np.int64, counts.sum()), counts

    def _ids(self, words: Sequence[str]) -> list[list[int]]:
        encodings = self.backend.encode_batch_fast(words, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def enough(self, word: str) -> str:
        """Returns the word, or a beginning that has the same first `limit` ids, and more than `limit`.

        The best path of the word passes one of any `longest_piece` places in a row, and up to there it is the
        best path of the word's beginning. So if the beginnings up to each of these places agree on the first
        ids, the word has these ids, too. This holds only for plain characters: each is one place.
        """
        places = 4 * self.limit
        while self.unigram and len(word) > 8 * self.longest_piece * places:
            beginning = word[: places + self.margin]
            if not re.search(self.plain, beginning) or re.search(f"{self.replaced}|{self.added}", beginning):
                break
            stops = range(places - self.longest_piece, places)
            ids = self._ids([word[:stop] for stop in stops])
            if min(map(len, ids)) > self.limit and len({tuple(each[: self.limit]) for each in ids}) == 1:
                return beginning[: places - 1]
            places *= 2
        return word


def _without_first_replacements(normalizer: Json | None) -> Callable[[str], str] | None:
    """Returns the steps after the replacements of strings that come first; None if there are none.

    A word that contains no replaced string skips nothing, and a long list of rare ones costs no time.
    """
    found = list(steps(normalizer))
    count = next((at for at, step in enumerate(found) if not _replaces_a_string(step)), len(found))
    if not count:
        return None
    rest = {"type": "Sequence", "normalizers": found[count:]}
    backend = Backend.from_str(json.dumps({**_NOTHING, "normalizer": rest}))
    return cast(Callable[[str], str], backend.normalizer.normalize_str)


def _replaces_a_string(step: Json) -> bool:
    return bool(step["type"] == "Replace" and "String" in step["pattern"])


_NOTHING: Json = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "pre_tokenizer": None,
    "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"},
}  # fmt: skip
"""The parts of a tokenizer.json that holds only a normalizer."""
NEVER = "a^"
"""A pattern that matches nothing."""


def _any_of(texts: Sequence[str]) -> str:
    return "|".join(map(re.escape, texts)) or NEVER


def _unigram(model: Json) -> Unigram | None:
    if model["type"] != "Unigram" or model["byte_fallback"] or model["unk_id"] is None:
        return None
    try:
        return Unigram(model["vocab"], model["unk_id"])
    except ValueError:
        return None  # words go through the real tokenizer
