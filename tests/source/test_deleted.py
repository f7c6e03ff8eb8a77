"""Tests that the positions of deleted rows survive the plan, and that damaged ones are refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.source.deleted import in_range, pack, unpack


@given(st.sets(st.integers(0, 2**40)))
def test_positions_come_back(positions: set[int]) -> None:
    found = np.array(sorted(positions), np.int64)
    assert unpack(pack(found), len(found)).tolist() == found.tolist()


def test_a_range_has_its_own_positions() -> None:
    positions = pa.array([0, 5, 9, 10, 11])
    assert in_range(positions, 5, 10).tolist() == [5, 9]
    assert in_range(positions, 12, 20).tolist() == in_range(None, 0, 9).tolist() == []


def test_a_packed_text_is_small_and_bounded() -> None:
    packed = pack(np.arange(10_000_000))
    assert len(packed) < 200_000
    with pytest.raises(SourceError, match="which of its rows are deleted"):
        unpack(packed, 10)


@pytest.mark.parametrize("text", ["x", "eJw=", pack(np.array([1, 2]))[:-6]])
def test_a_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="which of its rows are deleted"):
        unpack(text, 2)
