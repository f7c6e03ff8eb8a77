"""Tests that digests of rows tell apart all values of all types, and nothing else."""

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.nightly.changes.rows import row_digests

NAN = float("nan")
VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False, None]),
    (pa.int8(), [0, -1, None]),
    (pa.int64(), [0, 1, 1 << 62, None]),
    (pa.float32(), [0.0, -0.0, 1.5, NAN, None]),
    (pa.decimal128(20, 2), [Decimal("1.00"), Decimal("-1.00"), None]),
    (pa.date32(), [datetime.date(2026, 11, 25), None]),
    (pa.timestamp("us", "UTC"), [datetime.datetime(2026, 11, 25), datetime.datetime(1, 1, 1), None]),
    (pa.string(), ["", "a", "ab", "\0", None]),
    (pa.binary(), [b"", b"\0", None]),
    (pa.list_(pa.string()), [[], [""], ["a", "b"], ["ab"], [None], None]),
    (pa.list_(pa.list_(pa.int8())), [[[]], [[], []], [[1], [2]], [[1, 2]], [], None]),
    (pa.list_(pa.float32(), 2), [[0.0, 1.0], [1.0, 0.0]]),
    (pa.struct([("a", pa.string()), ("b", pa.int8())]), [{"a": "", "b": None}, {"a": None, "b": 0}, None]),
    (pa.map_(pa.string(), pa.int8()), [[("a", 1)], [("a", None)], [("b", 1)], [], None]),
]


def digests(kind: pa.DataType, values: list[Any]) -> list[bytes]:
    return [bytes(row) for row in row_digests([pa.array(values, kind)])]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_each_value_has_a_digest_of_its_own(kind: pa.DataType, values: list[Any]) -> None:
    found = digests(kind, values)
    assert len(set(found)) == len(values)
    assert digests(kind, values[::-1]) == found[::-1]
    sliced = pa.array([None if values[-1] is None else values[0], *values], kind).slice(1)
    assert [bytes(row) for row in row_digests([sliced])] == found


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_the_rows_beside_it_do_not_matter(kind: pa.DataType, values: list[Any]) -> None:
    """Checks arrays of one value, some of which have no null."""
    assert [digests(kind, [value])[0] for value in values] == digests(kind, values)


def test_values_do_not_run_into_the_next_column() -> None:
    columns = [pa.array(["a", "ab", ""]), pa.array(["bc", "c", "abc"])]
    assert len({bytes(row) for row in row_digests(columns)}) == 3


def test_what_lies_beneath_a_null_does_not_matter() -> None:
    one = pa.Array.from_buffers(pa.int64(), 1, [pa.py_buffer(b"\0"), pa.py_buffer(np.int64(7).tobytes())])
    assert np.array_equal(row_digests([one]), row_digests([pa.array([None], pa.int64())]))


def test_a_type_that_no_shard_has() -> None:
    with pytest.raises(TypeError, match="large_string"):
        row_digests([pa.array(["a"], pa.large_string())])
