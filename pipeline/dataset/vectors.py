"""Computes with vectors outside the model, in NumPy: unit length, non-finite ones, means of windows.

Shapes: N rows, C chunks, D dimensions.
"""

import numpy as np
import numpy.typing as npt

from pipeline.errors import NonFiniteError
from pipeline.model.outputs.embedding import Vectors

FEW, FEW_OF_ALL = 8, 0.005
"""Limits of non-finite vectors that texts may cause: fewer than `FEW`, or at most this part of a split."""


def unit(vectors_ND: Vectors) -> Vectors:
    """Scales each vector to length 1; a zero vector stays zero."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True).astype(np.float32)
    scaled_ND: Vectors = vectors_ND / np.maximum(lengths_N1, np.float32(1e-12))
    return scaled_ND


def refuse_many_non_finite(bad_N: npt.NDArray[np.bool_], but_N: npt.NDArray[np.bool_], where: str) -> None:
    """Refuses rows of which too many hold NaN or infinity.

    Args:
        bad_N: (N,) rows that do.  but_N: (N,) rows that were never computed.

    Raises:
        NonFiniteError: there are too many for their texts to be at fault.
    """
    wrong, computed = int((bad_N & ~but_N).sum()), int((~but_N).sum())
    if wrong >= FEW and wrong > FEW_OF_ALL * computed:
        hint = "look at the node's device; if other nodes say the same, at the checkpoint's weights"
        raise NonFiniteError("the model gives NaN or infinity", where, f"{wrong} of {computed} vectors", hint)


def mean_of_chunks(
    vectors_CD: Vectors, tokens_C: npt.NDArray[np.int64], chunks_N: npt.NDArray[np.int64], normalize: bool
) -> Vectors:
    """Returns for each text the mean of its chunks' vectors, weighted by their tokens, as (N, D).

    Args:
        chunks_N: how many chunks each text has, at least one; the chunks of a text are contiguous.
        normalize: scale the means to length 1.
    """
    starts_N = np.cumsum(chunks_N) - chunks_N
    weighted_CD = vectors_CD * tokens_C[:, None].astype(np.float32)
    if not len(chunks_N):
        return vectors_CD
    sums_ND = np.add.reduceat(weighted_CD, starts_N, axis=0)
    tokens_N1 = np.add.reduceat(tokens_C, starts_N)[:, None]
    means_ND = np.divide(sums_ND, tokens_N1.astype(np.float32)).astype(np.float32, copy=False)
    if normalize:
        means_ND = unit(means_ND)
    # A text of one chunk keeps its vector to the last bit.
    return np.where((chunks_N == 1)[:, None], vectors_CD[starts_N], means_ND).astype(np.float32, copy=False)
