"""Packs the positions of deleted rows into the text that a plan and a piece hold, and unpacks it."""

import base64
import binascii
import zlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import SourceError

Positions = npt.NDArray[np.int64]
NONE: Positions = np.zeros(0, np.int64)


def pack(positions: Positions) -> str:
    """Packs ascending positions; none become an empty text. Neighbours cost almost nothing."""
    if not len(positions):
        return ""
    steps = np.diff(positions, prepend=0).astype("<i8")
    return base64.b64encode(zlib.compress(steps.tobytes())).decode()


def unpack(text: str, count: int) -> Positions:
    """Returns the positions in a text that `pack` made.

    Args:
        count: how many they are. A text that expands to more is refused before it does.

    Raises:
        SourceError: the text is damaged.
    """
    if not text:
        return NONE
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text), count * 8 + 1)
        steps = np.frombuffer(data, "<i8")
    except (binascii.Error, zlib.error, ValueError):
        steps = NONE
    if len(steps) != count:
        hint = "plan.parquet is damaged: make a new dataset"
        raise SourceError("the plan does not say which of its rows are deleted", hint=hint)
    return np.cumsum(steps, dtype=np.int64)


def in_range(positions: pa.Array | None, start: int, stop: int) -> Positions:
    """Returns the positions in [start, stop)."""
    if positions is None:
        return NONE
    all_positions: Positions = positions.to_numpy()
    first, last = np.searchsorted(all_positions, [start, stop])
    return all_positions[first:last]
