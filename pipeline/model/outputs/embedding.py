"""Keeps the vector itself, and stores it as float32 or quantized. Pure NumPy and Arrow.

Shapes: N rows, D dimensions.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.model.output_spec import OutputSpec
from pipeline.model.outputs.list_columns import list_array, list_type

Vectors = npt.NDArray[np.float32]
COLUMNS: Sequence[str] = ("embedding", "embedding_scale")


def width(spec: OutputSpec) -> int:
    """Returns the length of a vector."""
    return spec.dimension


def told(spec: OutputSpec) -> str:
    """Returns in words what is kept of a row."""
    return f"{spec.dimension:,} dimensions ({spec.vector})"


def row_bytes(spec: OutputSpec) -> float:
    """Returns the bytes of one stored vector."""
    dimension = spec.dimension
    return {"float32": 4 * dimension, "int8": dimension + 4, "binary": -(-dimension // 8)}[spec.vector]


def fields(spec: OutputSpec) -> list[pa.Field]:
    """Returns the fields of the columns that hold the vectors."""
    kind, dimension = spec.vector, spec.dimension
    if kind == "binary":
        return [pa.field("embedding", pa.binary(), nullable=False)]
    if kind == "int8":
        return [
            pa.field("embedding", list_type(pa.int8(), dimension, spec), nullable=False),
            pa.field("embedding_scale", pa.float32(), nullable=False),
        ]
    return [pa.field("embedding", list_type(pa.float32(), dimension, spec), nullable=False)]


def store(vectors_ND: Vectors, spec: OutputSpec) -> list[pa.Array]:
    """Returns the columns of `fields`.

    `int8`: each vector times 127 over its greatest absolute value, rounded to even. Multiplied by
    `embedding_scale`, each value comes back within half a scale. `binary`: one bit per dimension, 1 if it is
    above zero; eight bits to a byte, the first in the highest bit, zeros at the end.
    """
    kind, dimension = spec.vector, spec.dimension
    if kind == "binary":
        packed = np.packbits(vectors_ND > 0, axis=1)
        offsets = np.arange(len(packed) + 1, dtype=np.int32) * packed.shape[1]
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(packed)]
        return [pa.BinaryArray.from_buffers(pa.binary(), len(packed), buffers)]
    if kind == "int8":
        rounded_ND, scale_N = quantized(vectors_ND)
        values = pa.array(rounded_ND.reshape(-1))
        return [list_array(values, dimension, spec), pa.array(scale_N)]
    return [list_array(pa.array(vectors_ND.reshape(-1)), dimension, spec)]


def quantized(vectors_ND: Vectors) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Returns vectors as int8, (N, D), and the scale of each, (N,)."""
    scale_N = (np.abs(vectors_ND).max(axis=1, initial=0) / np.float32(127)).astype(np.float32)
    divisor_N1 = np.where(scale_N > 0, scale_N, 1)[:, None]
    return np.rint(vectors_ND / divisor_N1).clip(-127, 127).astype(np.int8), scale_N


def labels(_: pa.Table) -> pa.Array:
    """Returns no label: a vector has none."""
    return pa.array([], pa.string())


def load(shard: pa.Table, dimension: int) -> Vectors:
    """Returns the vectors that `store` stored, (N, D) float32; bits become -1 and 1."""
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
