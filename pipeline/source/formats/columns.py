"""Python's values as Arrow columns, those that do not fit named; strings that UTF-8 has no bytes for kept."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

MISFITS = (pa.ArrowException, TypeError, OverflowError)
MISFIT = object()
"""What fits into no column."""


def strings_of(values: Sequence[str | None], errors: str = "surrogatepass") -> pa.Array:
    """Large strings, unchecked: surrogates, which UTF-8 has no bytes for, are left for `sift` to find.

    Args:
        errors: `surrogateescape` where surrogates stand for a file's own bytes.
    """
    data = [None if value is None else value.encode("utf-8", errors) for value in values]
    binary = pa.array(data, pa.large_binary())
    return pa.LargeStringArray.from_buffers(
        len(binary), binary.buffers()[1], binary.buffers()[2], binary.buffers()[0]
    )


def column_of(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """A column of a type, null where a value does not fit without loss; and the places of these.

    Into a string fits anything: what is none is written as JSON.
    """
    if pa.types.is_string(kind):
        texts = [None if value is None or value is MISFIT else text_of(value) for value in values]
        return strings_of(texts), [at for at, value in enumerate(values) if value is MISFIT]
    try:
        if _alike(values, kind):
            return pa.array(values, kind), []
    except MISFITS:
        pass
    fit = [_fits(value, kind) for value in values]
    kept = [value if good else None for value, good in zip(values, fit, strict=True)]
    return pa.array(kept, kind), np.flatnonzero(np.logical_not(fit)).tolist()


def text_of(value: Any) -> str:
    """A value as a column of strings has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _alike(values: Sequence[Any], kind: pa.DataType) -> bool:
    """Whether no truth value would quietly become a number."""
    return pa.types.is_boolean(kind) or not any(isinstance(value, bool) for value in values)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except MISFITS:
        return False
    return _alike([value], kind)
