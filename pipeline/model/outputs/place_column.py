"""Reads and checks columns whose rows list what stands at places of a text (`char_start`, `char_stop`).

Shapes: N rows, V values of all lists.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ragged import Ints, offsets_from_lengths

PLACE_FIELDS = [pa.field(name, pa.int32(), nullable=False) for name in ("char_start", "char_stop")]
Bools = npt.NDArray[np.bool_]


def field(name: str, values: pa.DataType) -> pa.Field:
    """Returns the field of such a column, without nulls."""
    return pa.field(name, pa.list_(pa.field("element", values, nullable=False)), nullable=False)


def lists(name: str, values: pa.StructArray, lengths_N: Ints) -> pa.Array:
    """Returns such a column, from the values of all rows and their number in each."""
    offsets = pa.array(offsets_from_lengths(lengths_N), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=field(name, values.type).type)


def stored(shard: pa.Table, name: str) -> tuple[pa.StructArray, Ints]:
    """Returns the values of a stored column, (V,), and the number of each row's, (N,)."""
    chunked = shard.column(name)
    found = pa.concat_arrays(chunked.chunks) if chunked.num_chunks else pa.array([], chunked.type)
    return found.flatten(), np.asarray(pc.list_value_length(found)).astype(np.int64)


def rows_with(wrong_V: Bools, lengths_N: Ints) -> Bools:
    """Tells which rows have one of the values, (N,)."""
    row_V = np.repeat(np.arange(len(lengths_N)), lengths_N)
    return np.bincount(row_V[wrong_V], minlength=len(lengths_N)) > 0


def faults(shard: pa.Table, name: str) -> Iterator[tuple[Bools, str]]:
    """Yields the rows, (N,), whose values stand where nothing of their text can."""
    values, lengths_N = stored(shard, name)
    start_V, stop_V = (values.field(each).to_numpy() for each in ("char_start", "char_stop"))
    row_V = np.repeat(np.arange(len(lengths_N)), lengths_N)
    outside_V = (start_V < 0) | (stop_V < start_V)
    if "chunk" in shard.column_names:
        low_N, high_N = (shard[each].to_numpy() for each in ("char_start", "char_stop"))
        outside_V |= (start_V < low_N[row_V]) | (stop_V > high_N[row_V])
    yield rows_with(outside_V, lengths_N), f"have {name} outside their text"
    back_V = np.zeros(len(start_V), np.bool_)
    back_V[1:] = (row_V[1:] == row_V[:-1]) & (start_V[1:] < start_V[:-1])
    yield rows_with(back_V, lengths_N), f"have {name} that are not in the order of their text"
    yield lengths_N > shard["n_tokens"].to_numpy(), f"have more {name} than tokens"


def elsewhere(values: pa.StructArray, records_V: npt.NDArray[np.void]) -> Bools:
    """Tells which stored values do not stand where the records do, (V,)."""
    other = [values.field(name).to_numpy() != records_V[name] for name in ("char_start", "char_stop")]
    return np.asarray(np.logical_or.reduce(other))
