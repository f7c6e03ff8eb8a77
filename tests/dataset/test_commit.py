"""Tests that reconciliation detects any lost, doubled or foreign row."""

from typing import Any

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.config.sections import Quality
from pipeline.dataset.reconcile import reconcile
from pipeline.dataset.summary import _documents
from pipeline.dataset.verdict import verdict
from pipeline.errors import ExitCode, IncompleteError


def planned(unit: str, *ranges: tuple[int, int], size: int = 100) -> pa.Table:
    rows = [
        {
            "split": number, "split_id": f"s{number}", "source": "docs", "file": "f", "version": "v",
            "size": size, "unit": unit, "start": start, "stop": stop,
        }
        for number, (start, stop) in enumerate(ranges)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema.PLAN)


def done(*pieces: tuple[int, int, int, int]) -> pa.ChunkedArray:
    values: list[list[dict[str, Any]]] = [
        [{"source": "docs", "file": "f", "start": start, "stop": stop, "rows": rows, "rejects": rejects}]
        for start, stop, rows, rejects in pieces
    ]
    return pa.chunked_array([pa.array(values, pa.list_(schema.PIECE))])


def test_rows_that_add_up_pass() -> None:
    reconcile(planned("rows", (0, 10), (10, 15)), done((0, 10, 9, 1), (10, 15, 0, 5)), {"s0", "s1"})


def test_nothing_planned_and_nothing_done_pass() -> None:
    reconcile(planned("rows"), done(), set())


@pytest.mark.parametrize("rows", [8, 10])
def test_a_row_too_few_or_too_many_fails(rows: int) -> None:
    with pytest.raises(IncompleteError, match=r"docs/f: 10 rows planned"):
        reconcile(planned("rows", (0, 10)), done((0, 10, rows, 1)), {"s0"})


def test_bytes_that_tile_their_file_pass_in_any_order_with_empty_pieces() -> None:
    pieces = done((40, 100, 3, 0), (0, 40, 1, 0), (40, 40, 0, 0))
    reconcile(planned("bytes", (0, 20), (20, 30), (30, 100)), pieces, {"s0", "s1", "s2"})


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 40, 1, 0), (41, 100, 1, 0)],
        [(0, 40, 1, 0), (39, 100, 1, 0)],
        [(0, 40, 1, 0), (40, 99, 1, 0)],
        [(1, 40, 1, 0), (40, 100, 1, 0)],
        [(0, 100, 1, 0), (0, 100, 1, 0)],
    ],
)
def test_a_gap_or_an_overlap_fails(pieces: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(IncompleteError, match="do not add up to its 100 bytes"):
        reconcile(planned("bytes", (0, 50), (50, 100)), done(*pieces), {"s0", "s1"})


def test_a_file_with_a_missing_split_is_judged_by_those_that_are_there() -> None:
    reconcile(planned("rows", (0, 10), (10, 20)), done((0, 10, 10, 0)), {"s0"})
    reconcile(planned("bytes", (0, 50), (50, 100)), done((0, 52, 1, 0)), {"s0"})
    with pytest.raises(IncompleteError):
        reconcile(planned("rows", (0, 10), (10, 20)), done((0, 10, 9, 0)), {"s0"})


def test_rejects_are_counted_against_documents_not_windows() -> None:
    """Sixty of a hundred documents are gone; the others have a hundred windows each."""
    manifest = pa.table({"pieces": done((0, 100, 40, 60))})
    totals = {"rows": 4000, "rejects": 60, "documents": _documents(manifest)}
    assert totals["documents"] == 100
    code, reason = verdict([], {}, totals, Quality(max_reject_fraction=0.5))
    assert code is ExitCode.INCOMPLETE
    assert "60 of 100 rows" in reason
