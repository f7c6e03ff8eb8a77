"""Ragged token ids, and how they are cut into micro-batches. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Ragged ids: text i is `ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    ids: (tokens,) uint16, or int32 where the vocabulary needs it.  offsets: (texts + 1,) int64.
    truncated: (texts,) bool, whether the text had more tokens than were kept.
    """

    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(texts,) ids given to the model."""
        return np.diff(self.offsets)


def micro_batches(
    lengths: npt.NDArray[np.int64], budget: int, stretch: float = 2.0, most: float = np.inf
) -> Iterator[npt.NDArray[np.int64]]:
    """Cut texts into batches of like length, longest first.

    Every batch holds at most `budget` tokens, and at most `stretch` times that if all its texts were as long
    as its longest; a text that is longer goes alone. Longest first, so that running out of memory shows at
    the start.

    Args:
        lengths: (texts,) tokens of each text, at least one.
        most: texts of a batch.

    Yields:
        (batch,) indices into `lengths`; together each index once.
    """
    order = np.argsort(-lengths, kind="stable")
    sums = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        fit = int(np.searchsorted(sums, sums[start] - longest + budget, "right")) - start
        count = max(1, int(min(fit, stretch * budget / longest, most)))
        yield order[start : start + count]
        start += count
