"""Makes Arrow columns from Python values. Reports values that do not fit; keeps strings UTF-8 can't hold."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

MISFITS = (pa.ArrowException, TypeError, OverflowError)
MISFIT = object()
"""A value that does not fit into any column."""


def strings_of(values: Sequence[str | None], errors: str = "surrogatepass") -> pa.Array:
    """Makes large strings without a check: `separate_rejects` finds surrogates, which UTF-8 can't encode.

    Args:
        errors: `surrogateescape` if surrogates stand for bytes of the file.
    """
    data = [None if value is None else value.encode("utf-8", errors) for value in values]
    binary = pa.array(data, pa.large_binary())
    return pa.LargeStringArray.from_buffers(
        len(binary), binary.buffers()[1], binary.buffers()[2], binary.buffers()[0]
    )


def column_of(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """Returns a column of a type, null where a value does not fit without loss; and the places of misfits.

    Any value fits into a string: one that is not a string is written as JSON.
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
    """Returns a value as a column of strings holds it.

    JSON has no NaN and no infinity. Inside an object or a list, a string with its name stands for each
    ("NaN", "Infinity", "-Infinity"), as in the JSON of Spark and of protobuf.
    """
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=not isinstance(value, dict | list))
    except ValueError:
        return json.dumps(_named(value), ensure_ascii=False)


def _named(value: Any) -> Any:
    """Returns a value with the names of numbers that JSON lacks in their places."""
    if isinstance(value, dict):
        return {key: _named(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_named(each) for each in value]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value


def _alike(values: Sequence[Any], kind: pa.DataType) -> bool:
    """Tells whether no boolean would silently become a number."""
    return pa.types.is_boolean(kind) or not any(isinstance(value, bool) for value in values)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except MISFITS:
        return False
    return _alike([value], kind)
