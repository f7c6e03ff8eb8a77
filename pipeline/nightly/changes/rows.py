"""Computes digests of rows: two rows have the same one if all their values are the same, to the bit.

Shapes: N rows, W bytes.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bytes = npt.NDArray[np.uint8]
WIDTH = 16
"""Bytes of a digest: BLAKE2b-128."""
Cells = list[bytes]


def row_digests(columns: Sequence[pa.Array]) -> Bytes:
    """Returns the digest of each row of these columns, (N, 16). Null is a value of its own.

    Raises:
        TypeError: a column has a type that no shard has.
    """
    fixed: list[Bytes] = []
    variable: list[Cells] = []
    for column in columns:
        _add(column, fixed, variable)
    size = len(columns[0])
    rows = [_cells(np.concatenate(fixed, axis=1))] if fixed else []
    joined = zip(*rows, *variable, strict=True)
    found = b"".join(blake2b(b"".join(row), digest_size=WIDTH).digest() for row in joined)
    return np.frombuffer(found, np.uint8).reshape(size, WIDTH)


def _add(values: pa.Array, fixed: list[Bytes], variable: list[Cells]) -> None:
    """Adds the bytes of a column: to `fixed` if all rows have as many, else to `variable`."""
    types, kind = pa.types, values.type
    if values.null_count:
        fixed.append(np.asarray(values.is_null()).astype(np.uint8)[:, None])
    else:
        fixed.append(np.zeros((len(values), 1), np.uint8))
    if types.is_null(kind):
        return
    if types.is_struct(kind):
        children = values.flatten()
        fixed.extend([row_digests(children)] if children else [])
    elif types.is_map(kind):
        variable.append(_parts(values.cast(_entries(kind))))
    elif types.is_list(kind):
        variable.append(_parts(values))
    elif types.is_fixed_size_list(kind) and values.null_count == 0:
        inner = values.flatten()
        cells = row_digests([inner]) if inner.null_count else _plain(inner)
        fixed.append(cells.reshape(len(values), -1))
    elif types.is_string(kind) or types.is_binary(kind):
        variable.append(_texts(values))
    else:
        fixed.append(_plain(values))


def _entries(kind: pa.MapType) -> pa.ListType:
    """Returns the type of a map as a list of its keys and values."""
    entry = [pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)]
    return pa.list_(pa.struct(entry))


def _plain(values: pa.Array) -> Bytes:
    """Returns the bytes of values of a fixed width, (N, W); zeros in the place of nulls."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if not pa.types.is_primitive(values.type) and not pa.types.is_decimal(values.type):
        raise TypeError(f"a shard has no column of {values.type}")
    width = values.type.bit_width // 8
    data = values.buffers()[1]
    everything = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    found = everything[values.offset * width : (values.offset + len(values)) * width].reshape(-1, width)
    if not values.null_count:
        return found
    kept: Bytes = np.where(np.asarray(values.is_valid())[:, None], found, np.uint8(0))
    return kept


def _texts(values: pa.Array) -> Cells:
    """Returns each string or binary value behind its length."""
    found = values.cast(pa.binary()).to_pylist()
    return [len(each or b"").to_bytes(8, "little") + (each or b"") for each in found]


def _parts(values: pa.ListArray) -> Cells:
    """Returns for each list the digests of its values."""
    digests = row_digests([values.flatten()]).tobytes()
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    ends = (np.cumsum(lengths) * WIDTH).tolist()
    starts = [0, *ends][: len(ends)]
    return [
        length.to_bytes(8, "little") + digests[start:end]
        for length, start, end in zip(lengths.tolist(), starts, ends, strict=True)
    ]


def _cells(matrix: Bytes) -> Cells:
    """Returns the bytes of each row of a matrix."""
    width, data = matrix.shape[1], np.ascontiguousarray(matrix).tobytes()
    return [data[at : at + width] for at in range(0, len(data), width)]
