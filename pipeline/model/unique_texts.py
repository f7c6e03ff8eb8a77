"""Finds texts with the same token ids, so that each is run once.

Shapes: N texts, U unique texts, B texts of a micro-batch, T tokens of a micro-batch.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.model.batching import TokenBatch
from pipeline.ragged import Ints, flat_indices


@dataclass(frozen=True, slots=True)
class UniqueTexts:
    """The U unique texts of a batch: the number of each in the batch, and its length in tokens, both (U,)."""

    tokens: TokenBatch
    first: Ints
    lengths: Ints

    @classmethod
    def of(cls, tokens: TokenBatch) -> tuple[Self, Ints]:
        """Returns the unique texts of a batch, and for each text the number of its unique text, (N,)."""
        first_U, which_N = _unique(tokens)
        return cls(tokens, first_U, tokens.lengths[first_U]), which_N

    def size(self, batch_B: Ints) -> int:
        """Returns the number of tokens of some unique texts."""
        return int(self.lengths[batch_B].sum())

    def ids(self, batch_B: Ints) -> Ints:
        """Returns the token ids of some unique texts, one after the other, (T,)."""
        starts_B = self.tokens.offsets[self.first[batch_B]]
        return self.tokens.ids[flat_indices(starts_B, self.lengths[batch_B])].astype(np.int64)

    def types(self, batch_B: Ints) -> Ints | None:
        """Returns the type of each token of some unique texts, (T,): 1 in the second texts of pairs."""
        if self.tokens.second is None:
            return None
        lengths_B = self.lengths[batch_B]
        place_T = flat_indices(np.zeros(len(batch_B), np.int64), lengths_B)
        return (place_T >= np.repeat(self.tokens.second[self.first[batch_B]], lengths_B)).astype(np.int64)


def _unique(tokens: TokenBatch) -> tuple[Ints, Ints]:
    """Returns the first text of each distinct list of ids, (U,), and the number of each text's list, (N,)."""
    size = tokens.ids.itemsize
    offsets, data = pa.py_buffer(tokens.offsets * size), pa.py_buffer(tokens.ids)
    texts = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(tokens.lengths), [None, offsets, data])
    which_N: npt.NDArray[Any] = (
        texts.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    )
    if tokens.second is not None:  # the same ids may be another pair
        both = which_N * (int(tokens.lengths.max(initial=0)) + 1) + tokens.second
        which_N = pa.array(both).dictionary_encode().indices.to_numpy().astype(np.int64)
    # A dictionary's indices are in the order of first appearance.
    first_U = np.unique(which_N, return_index=True)[1]
    return first_U, which_N
