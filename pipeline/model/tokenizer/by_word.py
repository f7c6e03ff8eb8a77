"""When a text is the concatenation of its words, and how words that were never seen are cut.

Owns the criterion: a tokenizer is taken word by word only if each of its parts is known to keep words apart
(normalizer, pre-tokenizer, model, added tokens). That is an argument about kinds, tested over every code
point; the probes that are run when it is loaded only guard it.

Invariant: a word's ids are those that the real tokenizer gives it. `Unigram` cuts the words that provably
reach the model as one piece; all others, and all words of other models, go through the real tokenizer.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer as Backend

from pipeline.model.tokenizer.unigram import START, Unigram
from pipeline.ragged import Ints, interleave

Json = Mapping[str, Any]

NORMALIZERS = {
    "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase", "Precompiled", "Nmt", "BertNormalizer",
}  # fmt: skip
"""Those that change no character across whitespace."""
METASPACE = {"type": "Metaspace", "replacement": START, "prepend_scheme": "always", "split": True}
PRE_TOKENIZERS = {
    "Unigram": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]},
    "WordPiece": {"type": "BertPreTokenizer"},
}
"""For each model the one pre-tokenizer that is known to cut at whitespace, and all words alike."""
POST_PROCESSORS = {None, "TemplateProcessing", "BertProcessing"}
"""Those that put special tokens around a text, and do nothing within it."""
SPACE = r"\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
"""Unicode's White_Space, at which the pre-tokenizer cuts."""


def why_not_by_word(backend: Backend) -> str | None:
    """Why texts can't be tokenized word by word; None where they can."""
    parts = json.loads(backend.to_str())
    model = parts["model"]["type"]
    for step in _steps(parts["normalizer"]):
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
    if step["pattern"] == {"Regex": " {2,}"}:  # what transformers writes; the pre-tokenizer cuts there anyway
        return bool(step["content"] == " ")
    pattern = step["pattern"].get("String", "")
    return bool(pattern) and not re.search(r"\s", pattern)


def _steps(normalizer: Json | None) -> Iterator[Json]:
    if normalizer and normalizer["type"] == "Sequence":
        for step in normalizer["normalizers"]:
            yield from _steps(step)
    elif normalizer:
        yield normalizer


def _spellings(backend: Backend, content: str) -> set[str]:
    """An added token as it stands in texts, and in normalised texts."""
    return {content, backend.normalizer.normalize_str(content) if backend.normalizer else content}


class Cutter:
    """Cuts words by the real tokenizer's rules.

    Args:
        limit: token ids of a text that are kept; a giant word need be given no more than one above it.
    """

    def __init__(self, backend: Backend, limit: int) -> None:
        parts = json.loads(backend.to_str())
        added = [text for token in parts["added_tokens"] for text in _spellings(backend, token["content"])]
        patterns = [step.get("pattern", {}) for step in _steps(parts["normalizer"])]
        replaced = [pattern["String"] for pattern in patterns if "String" in pattern]
        self.backend, self.limit = backend, limit
        self.unigram = _unigram(parts["model"])
        self.normalize = backend.normalizer.normalize_str if backend.normalizer else str
        self.lowers = self.normalize("A") == "a"
        self.plain = self._plain_characters()
        self.added, self.replaced = _any_of(added), "(?i)" + _any_of(replaced)
        self.longest_piece = max(map(len, backend.get_vocab()))
        self.margin = max(map(len, [*added, *replaced, "a"]))

    def cut(self, words: pa.Array) -> tuple[npt.NDArray[Any], Ints]:
        """Ids of all words, and how many each has."""
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
        """As `cut`, for words that may be of any length: the real tokenizer's pace, or less of the word."""
        return self._by_backend([self._enough(word) for word in words.to_pylist()])

    def _normalized(self, words: pa.Array) -> pa.Array:
        """Each word as the model sees it."""
        plain = pc.and_not(
            pc.match_substring_regex(words, self.plain), pc.match_substring_regex(words, self.replaced)
        )
        others = map(self.normalize, words.filter(pc.invert(plain)).to_pylist())
        lowered = pc.ascii_lower(words) if self.lowers else words
        return pc.replace_with_mask(lowered, pc.invert(plain), pa.array(others, words.type))

    def _plain_characters(self) -> str:
        """A pattern of words that normalizing leaves as they are, or lowers, if nothing in them is replaced.

        The steps of `NORMALIZERS` take printable ASCII one character at a time, so trying each proves it.
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

    def _enough(self, word: str) -> str:
        """The word, or as much of its beginning as makes its first `limit` ids certain, and that it has more.

        The best path of the whole word comes through one of any `longest_piece` places in a row, and up to
        there it is the best path of the word's beginning. So where the beginnings up to each of these
        agree on the first ids, the word does. Only for plain characters: of these each is one place.
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


NEVER = "a^"
"""A pattern that nothing matches."""


def _any_of(texts: Sequence[str]) -> str:
    return "|".join(map(re.escape, texts)) or NEVER


def _unigram(model: Json) -> Unigram | None:
    if model["type"] != "Unigram" or model["byte_fallback"] or model["unk_id"] is None:
        return None
    try:
        return Unigram(model["vocab"], model["unk_id"])
    except ValueError:
        return None  # words go through the real tokenizer
