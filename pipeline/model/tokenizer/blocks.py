"""Divides texts into blocks: working on a block takes some 30 times its bytes, which should fit a cache."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pipeline.ragged import text_bytes

BLOCK_BYTES = 1 << 21
"""Bytes of text in a block: its arrays fit a processor's cache."""


def blocks(texts: pa.Array, max_bytes: int | None = None) -> Iterator[pa.Array]:
    """Yields the texts in blocks of about `BLOCK_BYTES`; a longer text is not cut.

    Args:
        max_bytes: the bytes of each text that count; by default all.
    """
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        texts = texts.cast(pa.large_string())
    _, offsets_N = text_bytes(texts)
    length_N = np.diff(offsets_N)
    counted_N = length_N if max_bytes is None else np.minimum(length_N, max_bytes)
    block_N = np.cumsum(counted_N + 1) // BLOCK_BYTES
    starts = np.flatnonzero(np.diff(block_N, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(texts)]):
        yield texts.slice(start, stop - start)
