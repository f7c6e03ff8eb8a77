"""Measures how well a model can read sampled texts: unknown tokens, and texts that it can't tell apart.

A text in a script that the tokenizer does not have becomes a few unknown tokens. So all such texts have
nearly the same vector, and nothing else says so. Pure.

Shapes: N texts, R rows that would be computed (the texts, or chunks of them), T tokens of the rows.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.model.batching import TokenBatch
from pipeline.model.tokenizer import vocabulary
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.ragged import Ints

LOOKED_AT = 200
"""The characters of a text that decide its script."""
SCRIPTS = {"Cjk": "Han", "Hiragana": "Japanese", "Katakana": "Japanese"}
"""Scripts whose names in Unicode do not say what people call them."""
NO_LETTERS = "no letters"
SHOWN = 5
"""The most scripts in a line."""


@dataclass(frozen=True)
class Legibility:
    """Describes what a model can read of a sample.

    tokens: those of texts, without special ones, by the script of the text.  unknown: of them, the unknown.
    texts: different texts.  alike: those of them whose tokens are the tokens of a different text, too.
    """

    tokens: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    alike: int = 0

    @property
    def unknown_fraction(self) -> float:
        """Returns the fraction of the tokens that are unknown."""
        return sum(self.unknown.values()) / max(sum(self.tokens.values()), 1)

    def by_script(self) -> str:
        """Lists the fraction of unknown tokens of each script that has any, the most frequent first."""
        unknown = ((script, self.unknown[script], self.tokens[script]) for script in self.tokens)
        told = sorted((each for each in unknown if each[1]), key=lambda each: -each[1])
        return ", ".join(f"{script} {some / of:.0%}" for script, some, of in told[:SHOWN])


def joined(parts: Iterable[tuple[float, Legibility]]) -> Legibility:
    """Joins what is known of several samples, each with the number of rows that a row of it stands for.

    Texts are counted as they were sampled.
    """
    found = Legibility()
    texts = alike = 0
    for weight, part in parts:
        for script, tokens in part.tokens.items():
            found.tokens[script] += round(weight * tokens)
            found.unknown[script] += round(weight * part.unknown[script])
        texts, alike = texts + part.texts, alike + part.alike
    return Legibility(found.tokens, found.unknown, texts, alike)


def measured(texts: Sequence[str], tokens: TokenBatch, text_R: Ints, tokenizer: Tokenizer) -> Legibility:
    """Measures a sample.

    Args:
        text_R: the number of each row's text, ascending.
    """
    unknown_T = np.r_[0, np.cumsum(tokenizer.is_unknown(tokens.ids))]
    unknown_R = np.diff(unknown_T[tokens.offsets])
    kept_R = tokens.lengths - tokenizer.specials
    kept_N, unknown_N = (np.bincount(text_R, each, len(texts)).astype(int) for each in (kept_R, unknown_R))
    found = Legibility()
    for text, kept, unknown in zip(texts, kept_N.tolist(), unknown_N.tolist(), strict=True):
        script = script_of(text)
        found.tokens[script] += kept
        found.unknown[script] += unknown
    different, alike = _alike(texts, tokens, text_R)
    return Legibility(found.tokens, found.unknown, different, alike)


def _alike(texts: Sequence[str], tokens: TokenBatch, text_R: Ints) -> tuple[int, int]:
    """Counts different whole texts, and those of them whose tokens another one has, too.

    Case and white space make no different text: many tokenizers leave them out on purpose.
    """
    edges = tokens.offsets[np.searchsorted(text_R, np.arange(len(texts) + 1))]
    truncated_N = np.bincount(text_R, tokens.truncated, len(texts)) > 0
    of_tokens: dict[bytes, set[str]] = {}
    for number in np.flatnonzero(~truncated_N).tolist():
        ids = tokens.ids[edges[number] : edges[number + 1]].tobytes()
        of_tokens.setdefault(ids, set()).add(" ".join(texts[number].casefold().split()))
    sizes = [len(each) for each in of_tokens.values()]
    return sum(sizes), sum(size for size in sizes if size > 1)


def script_of(text: str) -> str:
    """Returns the script of most letters at the start of a text."""
    scripts = (vocabulary.script_of(character) for character in text[:LOOKED_AT] if character.isalpha())
    found = Counter(SCRIPTS.get(script, script) for script in scripts)
    return found.most_common(1)[0][0] if found else NO_LETTERS
