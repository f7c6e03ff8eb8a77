"""How vectors are stored: float32, or quantized. Pure NumPy and Arrow.

Shapes: N rows, C chunks, D dimensions.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import NonFiniteError

Vectors = npt.NDArray[np.float32]
FEW, FEW_OF_ALL = 8, 0.005
"""So many vectors that are not finite may be their texts' fault: fewer, or no larger a part of a split."""


def stored_fields(kind: str, dimension: int) -> list[pa.Field]:
    """The columns that hold vectors of a kind."""
    if kind == "binary":
        return [pa.field("embedding", pa.binary(), nullable=False)]
    if kind == "int8":
        return [
            pa.field("embedding", pa.list_(pa.int8(), dimension), nullable=False),
            pa.field("embedding_scale", pa.float32(), nullable=False),
        ]
    return [pa.field("embedding", pa.list_(pa.float32(), dimension), nullable=False)]


def store(vectors_ND: Vectors, kind: str) -> list[pa.Array]:
    """The columns of `stored_fields`.

    `int8`: each vector times 127 over its greatest absolute value, rounded to even; multiply by
    `embedding_scale` to have it back, each value within half a scale. `binary`: a bit a dimension, 1 where
    it is above zero, eight to a byte with the first in the highest bit, zeros at the end.
    """
    dimension = vectors_ND.shape[1]
    if kind == "binary":
        packed = np.packbits(vectors_ND > 0, axis=1)
        offsets = np.arange(len(packed) + 1, dtype=np.int32) * packed.shape[1]
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(packed)]
        return [pa.BinaryArray.from_buffers(pa.binary(), len(packed), buffers)]
    if kind == "int8":
        scale_N = (np.abs(vectors_ND).max(axis=1, initial=0) / np.float32(127)).astype(np.float32)
        divisor_N1 = np.where(scale_N > 0, scale_N, 1)[:, None]
        rounded = np.rint(vectors_ND / divisor_N1).clip(-127, 127).astype(np.int8)
        values = pa.array(rounded.reshape(-1))
        return [pa.FixedSizeListArray.from_arrays(values, dimension), pa.array(scale_N)]
    return [pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), dimension)]


def load(shard: pa.Table, dimension: int) -> Vectors:
    """(N, D) float32, of what `store` made; of bits, -1 and 1."""
    chunked = shard.column("embedding")
    column = pa.concat_arrays(chunked.chunks) if chunked.num_chunks else pa.array([], chunked.type)
    if pa.types.is_binary(column.type):
        packed = np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(
            len(column), -(-dimension // 8)
        )
        bits = np.unpackbits(packed, axis=1, count=dimension)
        signs: Vectors = bits.astype(np.float32) * 2 - 1
        return signs
    values: Vectors = (
        np.asarray(column.flatten()).reshape(len(column), dimension).astype(np.float32, copy=False)
    )
    if "embedding_scale" in shard.column_names:
        values = values * shard.column("embedding_scale").to_numpy()[:, None]
    return values


def unit(vectors_ND: Vectors) -> Vectors:
    """Each vector at length 1; a zero vector stays zero."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True).astype(np.float32)
    scaled_ND: Vectors = vectors_ND / np.maximum(lengths_N1, np.float32(1e-12))
    return scaled_ND


def non_finite(vectors_ND: Vectors, but_N: npt.NDArray[np.bool_], where: str) -> npt.NDArray[np.bool_]:
    """(N,) which vectors hold NaN or infinity.

    Args:
        but_N: (N,) those that were never computed.

    Raises:
        NonFiniteError: they are too many for their texts to be at fault.
    """
    bad_N = np.asarray(~np.isfinite(vectors_ND).all(axis=1))
    wrong, computed = int((bad_N & ~but_N).sum()), int((~but_N).sum())
    if wrong >= FEW and wrong > FEW_OF_ALL * computed:
        hint = "look at the node's device; where others say the same, at the checkpoint's weights"
        raise NonFiniteError("the model gives NaN or infinity", where, f"{wrong} of {computed} vectors", hint)
    return bad_N


def mean_of_chunks(
    vectors_CD: Vectors, tokens_C: npt.NDArray[np.int64], chunks_N: npt.NDArray[np.int64], normalize: bool
) -> Vectors:
    """(N, D): for each text the mean of its chunks' vectors, weighted by their tokens.

    Args:
        chunks_N: how many chunks each text has, at least one; they lie one behind the other.
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
