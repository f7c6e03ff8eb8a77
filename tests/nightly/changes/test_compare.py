"""Tests the comparison of fingerprints, above all what it says of ids that are there more than once."""

import numpy as np
import pytest

from pipeline.nightly.changes.compare import compare, count
from pipeline.nightly.changes.fingerprint import FINGERPRINT, NEW, OLD, SHARED

Print = tuple[int, int, int]
"""An id, a content and a side."""


def prints(*rows: Print) -> np.ndarray:
    found = np.zeros(len(rows), FINGERPRINT)
    for at, (key, content, side) in enumerate(rows):
        found[at] = (key, key, 0, (content, content), side, side, at)
    return found


def test_no_rows() -> None:
    found = compare(prints(), alike=True)
    assert (len(found.changed), len(found.repeated)) == (0, 0)


@pytest.mark.parametrize("alike", [True, False])
def test_each_change(alike: bool) -> None:
    rows = prints(
        (1, 1, OLD), (1, 1, NEW), (2, 1, OLD), (2, 2, NEW), (3, 1, OLD), (4, 1, NEW), (5, 1, SHARED)
    )
    draw = np.random.default_rng(0)
    for _ in range(5):
        found = compare(draw.permutation(rows), alike)
        assert count(found.changed) == {"added": 1, "updated": 1 if alike else 2, "deleted": 1}
        assert len(found.repeated) == 0


@pytest.mark.parametrize(
    "sides", [(NEW, NEW), (OLD, OLD), (OLD, NEW, NEW), (OLD, OLD, NEW), (NEW, SHARED), (OLD, SHARED)]
)
def test_an_id_that_is_there_twice(sides: tuple[int, ...]) -> None:
    found = compare(prints(*((7, at, side) for at, side in enumerate(sides)), (8, 0, OLD)), alike=True)
    assert len(found.repeated) == 1
    assert set(found.repeated[0]["id_first"].tolist()) == {7}


def test_windows_of_one_text_are_rows_of_their_own() -> None:
    rows = prints((1, 1, OLD), (1, 1, OLD), (1, 1, NEW))
    rows["chunk"] = [0, 1, 0]
    found = compare(rows, alike=True)
    assert count(found.changed) == {"added": 0, "updated": 0, "deleted": 1}
