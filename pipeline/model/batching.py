"""Holds ragged token ids and cuts them into micro-batches. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Ragged ids: text i is `ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    ids: (tokens,) uint16, or int32 if the vocabulary needs it.  offsets: (texts + 1,) int64.
    truncated: (texts,) bool, true if the text had more tokens than were kept.
    second: (texts,) int64, the place where the second text of a pair begins; None without pairs.
    places: (tokens,) the place of each token in its text (`token_places`); None if no output asks for them.
    """

    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]
    second: npt.NDArray[np.int64] | None = None
    places: npt.NDArray[np.void] | None = None

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Returns the number of ids of each text that the model gets, (texts,)."""
        return np.diff(self.offsets)


def micro_batches(
    lengths: npt.NDArray[np.int64], budget: int, stretch: float = 2.0, most: float = np.inf
) -> Iterator[npt.NDArray[np.int64]]:
    """Cuts texts into batches of similar length, longest first.

    A batch holds at most `budget` tokens. Padded to its longest text, it holds at most `stretch` times that.
    A longer text gets a batch of its own. The longest come first, so that a lack of memory shows at once.

    Args:
        lengths: (texts,) tokens of each text, at least one.
        most: the largest number of texts in a batch.

    Yields:
        (batch,) indices into `lengths`; each index is in one batch.
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
