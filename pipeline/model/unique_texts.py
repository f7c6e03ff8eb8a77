"""Texts with the same token ids are one: found once, run once.

Shapes: N texts, U unique texts, B texts of a micro-batch, T tokens of it.
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
    """The U unique texts of a batch: (U,) which of its texts each is, and (U,) how many tokens it has."""

    tokens: TokenBatch
    first: Ints
    lengths: Ints

    @classmethod
    def of(cls, tokens: TokenBatch) -> tuple[Self, Ints]:
        """Returns the unique texts of a batch, and (N,) which of them each of its texts is."""
        first_U, which_N = _unique(tokens)
        return cls(tokens, first_U, tokens.lengths[first_U]), which_N

    def size(self, batch_B: Ints) -> int:
        """Tokens of some of them."""
        return int(self.lengths[batch_B].sum())

    def ids(self, batch_B: Ints) -> Ints:
        """(T,) the tokens of some of them, one behind the other."""
        starts_B = self.tokens.offsets[self.first[batch_B]]
        return self.tokens.ids[flat_indices(starts_B, self.lengths[batch_B])].astype(np.int64)


def _unique(tokens: TokenBatch) -> tuple[Ints, Ints]:
    """(U,) the first text of each distinct run of ids, and (N,) which of them each text is."""
    size = tokens.ids.itemsize
    offsets, data = pa.py_buffer(tokens.offsets * size), pa.py_buffer(tokens.ids)
    texts = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(tokens.lengths), [None, offsets, data])
    which_N: npt.NDArray[Any] = (
        texts.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    )
    # Indices of a dictionary count up in order of first appearance.
    first_U = np.unique(which_N, return_index=True)[1]
    return first_U, which_N
