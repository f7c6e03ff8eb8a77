"""States the normal form of Google's ALBERT (google-research/albert, tokenization.py).

It is that of a folder with a `spiece.model` alone.

Owns the steps before the Unigram model: whitespace as Python splits it, straight quotes, NFKD, no character
of a non-zero combining class, lower case with the final sigma, and then sentencepiece's own map. Marks of
class 0, such as the vowel signs of Devanagari, Bengali, Thai or Khmer, stay.

Invariant: the steps give for each assigned code point what Python and sentencepiece give, wherever it stands
in a word. Two things of the `tokenizers` library are filled in: its tables know no decomposition that is
newer than Unicode 12.0, and its `Precompiled` composes nothing (Hangul, two-part vowel signs).
"""

import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

from tokenizers import Regex, normalizers

SPACES = r"[\x0b\x1c-\x1f]"
"""Characters at which Python splits a text, and which sentencepiece's map would drop or keep."""
_IGNORED = r"\p{Case_Ignorable}"
_CASED = rf"[\p{{Cased}}&&[^{_IGNORED}]]"
FINAL_SIGMA = rf"{_CASED}{_IGNORED}*\KΣ(?!{_IGNORED}*{_CASED})"
"""A Σ that ends a word, which Python lowers to ς."""
LATER = tuple(
    map(
        chr,
        chain(
            [0x32FF, *range(0xA7F2, 0xA7F5), 0xAB69, *range(0x10781, 0x10786), *range(0x10787, 0x107B1)],
            [*range(0x107B2, 0x107BB), 0x1F16C, *range(0x1FBF0, 0x1FBFA)],
        ),
    )
)
"""Characters whose decompositions are newer than the library's tables."""
COMPOSING = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")
"""sentencepiece's maps that compose what NFKD has taken apart."""
FOLDING = ("nmt_nfkc_cf", "nfkc_cf")
"""sentencepiece's maps that also fold the case."""


def _class_of(characters: Iterator[str]) -> str:
    """Returns a regular expression for one of the characters, which come in order."""
    ranges: list[list[int]] = []
    for code in map(ord, characters):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in ranges) + "]"


@cache
def marks() -> str:
    """Returns a regular expression for the characters of a non-zero canonical combining class.

    Finding them takes a tenth of a second, and only folders with a lone `spiece.model` need them.
    """
    return _class_of(each for each in map(chr, range(0x110000)) if unicodedata.combining(each))


def patterns() -> dict[str, str]:
    """Returns what is replaced by regular expressions; none of them looks across whitespace."""
    return {SPACES: " ", marks(): "", FINAL_SIGMA: "ς"}


def normalizer(charsmap: bytes, name: str, *, lower_case: bool, keep_accents: bool) -> normalizers.Normalizer:
    """Returns the steps of a model.

    Args:
        charsmap: sentencepiece's compiled map; empty if it has none.
        name: the map's name.
    """
    later = [] if keep_accents else LATER
    # Replacements of strings come first: words without these strings skip them (`by_word`).
    steps: list[Any] = [normalizers.Replace(each, unicodedata.normalize("NFKD", each)) for each in later]
    steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), _replaced(SPACES)]
    if not keep_accents:
        steps += [normalizers.NFKD(), _replaced(marks())]
    if lower_case:
        steps += [_replaced(FINAL_SIGMA), normalizers.Lowercase()]
    if charsmap:
        steps += _before_map(charsmap, name, keep_accents)
        steps.append(normalizers.Precompiled(charsmap))
    return normalizers.Sequence(steps)


def _before_map(charsmap: bytes, name: str, keep_accents: bool) -> list[Any]:
    """Returns steps that do what the map does to a character that a mark may follow.

    `Precompiled` maps a character and its marks, if they are less than six bytes, as if they were the
    character alone: the marks are lost. It must find nothing to do there. One difference stays, with
    `keep_accents` alone: a mark is composed with a letter before it even if sentencepiece's map has no entry
    for the two (Â and an acute accent, which is one letter in Vietnamese; ﬁ and an accent).
    """
    steps: list[Any] = []
    if name in FOLDING:
        mapped = normalizers.Precompiled(charsmap).normalize_str
        folds = {each: mapped(each) for each in _folded_lower()}
        steps.append(normalizers.Lowercase())
        steps += [normalizers.Replace(each, fold) for each, fold in folds.items() if fold != each]
    if name in COMPOSING:
        steps.append(normalizers.NFKC() if keep_accents else normalizers.NFC())
    return steps


@cache
def _folded_lower() -> list[str]:
    """Returns the characters in lower case that folding changes, such as ς and ß."""
    return [each for each in map(chr, range(0x110000)) if each.casefold() != each == each.lower()]


def _replaced(pattern: str) -> normalizers.Replace:
    return normalizers.Replace(Regex(pattern), patterns()[pattern])
