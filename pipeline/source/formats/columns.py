"""Makes Arrow columns from Python values. Reports values that do not fit; keeps strings UTF-8 can't hold."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.ragged import unchecked_strings

MISFITS = (pa.ArrowException, TypeError, OverflowError)
FLOAT_DIGITS = 17
"""The most digits that tell a 64-bit float from all others."""
MISFIT = object()
"""A value that does not fit into any column."""


def strings_of(values: Sequence[str | None], errors: str = "surrogatepass") -> pa.Array:
    """Makes large strings without a check: `separate_rejects` finds surrogates, which UTF-8 can't encode.

    Args:
        errors: `surrogateescape` if surrogates stand for bytes of the file.
    """
    data = [None if value is None else value.encode("utf-8", errors) for value in values]
    return unchecked_strings(pa.array(data, pa.large_binary()))


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


@dataclass(frozen=True, slots=True)
class Fraction:
    """A number of JSON that Python would write otherwise: `1.10`, `1e400`, one of many digits."""

    written: str

    @property
    def number(self) -> float:
        """The nearest 64-bit float, perhaps infinite."""
        return float(self.written)

    @property
    def fits(self) -> bool:
        """True if the number loses no digit: a program that has 64-bit floats writes 17 digits at most."""
        digits = self.written.lower().partition("e")[0].replace(".", "").lstrip("-0").rstrip("0")
        return math.isfinite(self.number) and len(digits) <= FLOAT_DIGITS


def fraction(written: str) -> float | Fraction:
    """Returns a number of JSON with a fraction or an exponent, which no column of strings alters."""
    number = float(written)
    return number if repr(number) == written else Fraction(written)


def text_of(value: Any) -> str:
    """Returns a value as a column of strings holds it; a number keeps every digit.

    JSON has no NaN and no infinity. Inside an object or a list, a string with its name stands for each
    ("NaN", "Infinity", "-Infinity"), as in the JSON of Spark and of protobuf.
    """
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=not isinstance(value, dict | list))
    except (TypeError, ValueError):  # a `Fraction`, or a number that JSON lacks
        return _json(value)


def _json(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_json(key)}: {_json(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    if isinstance(value, Fraction):
        return value.written
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(json.dumps(value))
    return json.dumps(value, ensure_ascii=False)


def _alike(values: Sequence[Any], kind: pa.DataType) -> bool:
    """Tells whether no boolean would silently become a number."""
    return pa.types.is_boolean(kind) or not any(isinstance(value, bool) for value in values)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except MISFITS:
        return False
    return _alike([value], kind)
