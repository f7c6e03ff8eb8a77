"""Words problems of rows: one line for all rows that have it, with the first of them."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Problem = tuple[str, str]
"""A check, and what it found."""


def some(check: str, wrong_M: npt.NDArray[np.bool_], rows: pa.Table, what: str) -> Iterator[Problem]:
    """Yields one problem for all rows that have it; it names the first of them."""
    if wrong_M.any():
        first = int(np.flatnonzero(wrong_M)[0])
        place = f"{rows['source_file'][first]}#{rows['source_row'][first]}"
        yield check, f"{int(wrong_M.sum())} rows {what}, {place} the first"
