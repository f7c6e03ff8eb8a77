"""Lengths and a token budget become micro-batches. Pure."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def micro_batches(lengths: npt.NDArray[np.int64], budget: int) -> Iterator[npt.NDArray[np.int64]]:
    """Cut texts into batches of like length, longest first.

    Every batch holds at most `budget` tokens once padded to its longest text; a text that is longer than
    the budget goes alone. Longest first, so that running out of memory shows at the start.

    Args:
        lengths: (texts,) tokens of each text.

    Yields:
        (batch,) indices into `lengths`; together each index once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + count]
        start += count
