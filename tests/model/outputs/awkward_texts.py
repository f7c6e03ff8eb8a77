"""Makes texts that are awkward for places: letters that rules change, remove or cut, and odd spaces."""

import numpy as np

PIECES = [
    "cafe\u0301", "café", "naïve", "\ufb01ne", "①②", "½", "\uff13\uff0e\uff11\uff14", "\uff26\uff35\uff2c",
    "world", "hello", "unknown", "a", "的一是不了人", "你好", "世界!", "🙂", "👩\u200d👩\u200d👧", "İstanbul",
    "ΘΕΟΣ", "\u200d", "\u0301", "x" * 40, "3.14,", "(or so)", "don't", "``so''", "[MASK]", "<unk>",
    "\u1fb3\u0308", "한국어", "यह", "\ufdfa", "\ufeff", "Straße", "--", "...",
]  # fmt: skip
SPACES = [" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\r\n", "", ""]
ALONE = [" ", "", ".", "\u0301", "\u200b", "🙂", "\u00a0", "\n\n", "a", " a ", "\ufeffa"]
"""Texts of next to nothing, some without a token."""


def awkward_texts(count: int, seed: int = 0) -> list[str]:
    """Returns distinct texts of 1 to 40 pieces, after those of next to nothing."""
    draw = np.random.default_rng(seed)
    found = dict.fromkeys(ALONE)
    while len(found) < count:
        size = int(draw.integers(1, 8 if len(found) % 4 else 40))
        pieces, spaces = draw.integers(0, len(PIECES), size), draw.integers(0, len(SPACES), size)
        found["".join(PIECES[at] + SPACES[space] for at, space in zip(pieces, spaces, strict=True))] = None
    return list(found)[:count]
