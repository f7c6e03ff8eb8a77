"""Ragged arrays: flat values, and the start and length of each row. Pure NumPy and Arrow.

The module holds the few index operations that replace Python loops over rows. Each is one pass over its
output.

Shapes: R rows, V values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Ragged:
    """R rows of several values each: the V values, row after row, and the number of each row's, (R,)."""

    values: npt.NDArray[Any]
    lengths: Ints

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, kept_R: npt.NDArray[np.bool_]) -> "Ragged":
        """Returns some of the rows."""
        return Ragged(self.values[np.repeat(kept_R, self.lengths)], self.lengths[kept_R])

    @property
    def rows(self) -> Ints:
        """Returns the number of each value's row, (V,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def sums(values_V: npt.NDArray[Any], lengths_R: Ints) -> Ints:
    """Returns the sum of each row's integers or truths, (R,); 0 for a row without any."""
    before = np.zeros(len(values_V) + 1, np.int64)
    np.cumsum(values_V, out=before[1:])
    found: Ints = np.diff(before[offsets_from_lengths(lengths_R)])
    return found


def offsets_from_lengths(lengths_R: npt.NDArray[Any]) -> Ints:
    """Returns the (R + 1,) offsets of rows that lie one after the other."""
    offsets = np.zeros(len(lengths_R) + 1, np.int64)
    np.cumsum(lengths_R, out=offsets[1:])
    return offsets


def flat_indices(starts_R: npt.NDArray[Any], lengths_R: npt.NDArray[Any]) -> Ints:
    """Returns the (V,) index of each value: `start, start + 1, ...`, row after row."""
    offsets = offsets_from_lengths(lengths_R)
    return np.repeat(starts_R - offsets[:-1], lengths_R) + np.arange(offsets[-1])


def text_bytes(texts: pa.Array) -> tuple[Bytes, Ints]:
    """Returns the UTF-8 of all texts, without a copy, and their (R + 1,) offsets in it."""
    large = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    width = np.int64 if large else np.int32
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    offsets_R = np.frombuffer(offsets, width, len(texts) + 1, texts.offset * np.dtype(width).itemsize)
    data_V = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return data_V, offsets_R.astype(np.int64)


def text_array(data_V: Bytes, starts_R: Ints, lengths_R: Ints) -> pa.Array:
    """Returns the rows of a flat array of UTF-8 as Arrow strings."""
    offsets = pa.py_buffer(offsets_from_lengths(lengths_R))
    values = pa.py_buffer(data_V[flat_indices(starts_R, lengths_R)])
    return pa.LargeStringArray.from_buffers(len(lengths_R), offsets, values)


def unchecked_strings(binary: pa.Array) -> pa.Array:
    """Returns large binaries as large strings, without a copy. Nobody has checked that they are UTF-8."""
    valid, offsets, data = binary.buffers()
    return pa.LargeStringArray.from_buffers(len(binary), offsets, data, valid, offset=binary.offset)


def interleave(
    which_R: npt.NDArray[np.bool_],
    chosen: tuple[npt.NDArray[Any], Ints],
    others: tuple[npt.NDArray[Any], Ints],
) -> tuple[npt.NDArray[Any], Ints]:
    """Merges two (values, lengths): takes the next row of `chosen` if `which` is true, else of `others`."""
    lengths_R = np.empty(len(which_R), np.int64)
    lengths_R[which_R], lengths_R[~which_R] = chosen[1], others[1]
    from_chosen_V = np.repeat(which_R, lengths_R)
    values = np.empty(len(from_chosen_V), chosen[0].dtype)
    values[from_chosen_V], values[~from_chosen_V] = chosen[0], others[0]
    return values, lengths_R
