"""Checks that the report's figures are those of the records, and that its colours are distinguishable."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.operate.report import axis, figures
from pipeline.operate.report.charts import HALF, NARROW, Bar, Bars, Columns
from pipeline.operate.report.markup import element
from pipeline.operate.report.page import STYLE
from pipeline.operate.report.projection import colours, project
from pipeline.plan.plan import Plan
from tests.reports import NOON, records


def attempts(**starts: float) -> list[dict[str, Any]]:
    """Makes attempts by name; each starts at the given seconds after noon."""
    return [
        {"attempt": name, "started": f"2026-11-25T12:{int(after // 60):02}:{int(after % 60):02}+00:00"}
        for name, after in starts.items()
    ]


def test_token_histograms_add_up_whatever_their_lengths() -> None:
    rows = figures.token_lengths(records({"token_histogram": [1, 2]}, {}, {"token_histogram": [0, 1, 5]}))
    assert rows.tolist() == [1, 3, 5]
    assert figures.median_bucket(rows) == 3  # of nine rows the fifth is in the bucket (2, 3]
    assert figures.token_lengths(records()).tolist() == [0]


def test_rows_a_second_of_one_shard_after_another() -> None:
    """The first shard is encoded from second 2 to 4, the second from 4 to 5."""
    made = records(
        {"rows": 10, "encode_seconds": 2.0, "written_at": NOON + 4},
        {"rows": 30, "encode_seconds": 1.0, "written_at": NOON + 5},
    )
    flow = figures.throughput(made, attempts(a=0))
    assert flow is not None
    assert flow.edges.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(flow.rates, [0, 0, 5, 5, 30])
    assert (flow.rows, flow.seconds, flow.began, flow.ended) == (40, 5, NOON, NOON + 5)


def test_a_pause_between_attempts_is_no_time_at_work() -> None:
    """Two attempts of two seconds are ten minutes apart; a third beside the second made nothing."""
    made = records(
        {"attempt": "a", "encode_seconds": 2.0, "written_at": NOON + 2},
        {"attempt": "b", "rows": 40, "encode_seconds": 1.0, "written_at": NOON + 602},
    )
    flow = figures.throughput(made, attempts(a=0, b=600, c=601))
    assert flow is not None
    assert flow.starts == (0, 2)
    np.testing.assert_allclose(flow.rates, [5, 5, 0, 40])


def test_attempts_at_the_same_time_share_it() -> None:
    made = records(
        {"attempt": "a", "encode_seconds": 4.0, "written_at": NOON + 4},
        {"attempt": "b", "encode_seconds": 2.0, "written_at": NOON + 3},
    )
    flow = figures.throughput(made, attempts(a=0, b=1))
    assert flow is not None
    np.testing.assert_allclose(flow.rates, [2.5, 7.5, 7.5, 2.5])


def test_a_clock_that_is_behind_the_drivers_loses_no_row() -> None:
    flow = figures.throughput(records({"encode_seconds": 9.0, "written_at": NOON - 5}), attempts(a=0))
    assert flow is not None
    assert float((flow.rates * np.diff(flow.edges)).sum()) == pytest.approx(10)


def test_copied_shards_are_not_the_work_of_this_dataset() -> None:
    every = records({"attempt": "a"}, {"attempt": "of another dataset", "written_at": NOON - 1e6})
    made = schema.made_by(every, ["a"])
    assert made["attempt"].to_pylist() == ["a"]
    assert figures.throughput(schema.made_by(every, ["none of them"]), attempts(a=0)) is None


def test_sizes_fall_into_round_bins() -> None:
    found = figures.histogram(np.array([100, 199, 200, 2399]))
    assert (found.edges[0], found.edges[1]) == (100, 200)
    assert found.counts.tolist() == [2, 1, *[0] * 20, 1]
    assert figures.histogram(np.full(9, 65_536)).counts.tolist() == [9]
    assert figures.histogram(np.array([], np.int64)).counts.tolist() == [0]


@pytest.mark.parametrize("most", [1, 7, 60, 23_000_000_000])
def test_sizes_never_need_many_bins(most: int) -> None:
    assert len(figures.histogram(np.array([0, most])).counts) <= 25


def planned(*rows: tuple[str, str, str | None, int | None, int | None]) -> Plan:
    """Makes a plan of pieces, given by source, file, unit, start and stop."""
    table = pa.Table.from_pylist(
        [
            {
                "source": source,
                "file": file,
                "unit": unit,
                "start": start,
                "stop": stop,
                "version": "v",
                "size": 9,
            }
            for source, file, unit, start, stop in rows
        ],
        schema=schema.PLAN,
    )
    return Plan(table, pa.schema([]), "digest")


def test_rows_are_reconciled_by_source() -> None:
    frozen = planned(
        ("docs", "f", "rows", 0, 10), ("docs", "f", "rows", 10, 15), ("docs", "bad", None, None, None),
        ("lines", "g", "bytes", 0, 99),
    )  # fmt: skip
    pieces = [
        {"source": "docs", "file": "f", "start": 0, "stop": 10, "rows": 8, "rejects": 2},
        {"source": "lines", "file": "g", "start": 0, "stop": 99, "rows": 3, "rejects": 0},
    ]
    found = figures.by_source(frozen, records({"pieces": pieces}), ["docs/bad"], ["docs", "lines", "empty"])
    assert [
        (each.files, each.planned, each.embedded, each.rejected, each.failed_files) for each in found
    ] == [
        (2, 15, 8, 2, 1),
        (1, None, 3, 0, 0),
        (0, 0, 0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (axis.ticks(7, 3), [(0, "0"), (5, "5")]),
        (axis.time_ticks(7200, 2), ("h", [(0, "0"), (3600, "1"), (7200, "2")])),
    ],
)  # fmt: skip
def test_ticks_are_round(told: object, wanted: object) -> None:
    assert told == wanted


def test_a_projection_finds_the_line_that_vectors_lie_on() -> None:
    along = np.array([3.0, 0, 4.0]) / 5
    projected = project((np.arange(-2, 3)[:, None] * along + 7).astype(np.float32))
    assert projected is not None
    np.testing.assert_allclose(projected.points, [[-2, 0], [-1, 0], [0, 0], [1, 0], [2, 0]], atol=1e-5)
    np.testing.assert_allclose(projected.explained, [1, 0], atol=1e-6)


def test_vectors_without_a_plane_have_no_projection() -> None:
    for vectors in (np.ones((5, 4)), np.eye(2), np.arange(4).reshape(4, 1)):
        assert project(vectors.astype(np.float32)) is None


def test_rows_are_coloured_by_the_first_column_of_few_values() -> None:
    columns = {"key": range(40), "alike": ["x"] * 40, "ten": [f"v{row % 10}" for row in range(40)]}
    found = colours(columns, ["docs"] * 40)
    assert (found.column, found.names) == ("ten", tuple(f"v{number}" for number in range(8)))
    assert found.of_rows.tolist() == [row % 10 if row % 10 < 8 else -1 for row in range(40)]


def test_without_such_a_column_rows_are_coloured_by_source_or_by_frequent_values() -> None:
    sources = ["a"] * 15 + ["b"] * 25
    rare = ["often"] * 6 + [f"v{row}" for row in range(34)]
    assert colours({"rare": rare}, sources).names == ("b", "a")
    found = colours({"key": range(40), "rare": rare}, ["a"] * 40)
    assert (found.column, found.names) == ("rare", ("often",))
    assert found.of_rows.tolist() == [0] * 6 + [-1] * 34
    assert colours({"key": range(40)}, ["a"] * 40).column == "source"
    assert colours({}, ["a"] * 40).names == ("a",)


def test_what_is_no_markup_of_ours_is_text() -> None:
    inner = element("b", "<i>", title='"')
    assert element("p", inner, "&\x00\u202e") == '<p><b title="&#34;">&lt;i&gt;</b>&amp;\ufffd\ufffd</p>'


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """Converts linear sRGB to CIE L*a*b*."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.clip(light, 0, 1) @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


EYES = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}
"""The colours that eyes see with all cones, or without one (Machado, Oliveira and Fernandes, 2009)."""


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("eyes", EYES)
def test_colours_can_be_told_apart_by_everybody(mode: int, eyes: str) -> None:
    found = re.findall(r"--c(-?\d): (#\w{6});", STYLE)[9 * mode :][:9]
    assert {number for number, _ in found} == {str(number) for number in range(-1, 8)}
    seen = lab(np.array([linear(colour) for _, colour in found]) @ np.array(EYES[eyes]).T)
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)[np.triu_indices(9, 1)]
    assert apart.min() > 20


def test_names_too_long_for_the_side_of_a_narrow_chart_stand_above_their_bars() -> None:
    bars = [Bar("invalid_utf8_carried", 3, "3"), Bar("null", 9, "9")]
    chart = Bars(label="rejects", x_title="rows", bars=bars)
    name = re.compile(r'<text class="name" x="0" y="\d+" text-anchor="start">invalid_utf8_carried<')
    assert name.search(chart.draw(NARROW))
    assert not name.search(chart.draw(HALF))


@pytest.mark.parametrize("heights", [[0], [1], [3, 7], [583.2, 4], [0.02, 0.05], [8.4]])
def test_no_column_is_higher_than_its_axis(heights: list[float]) -> None:
    whole = all(height == int(height) for height in heights)
    chart = Columns(
        label="", x_title="", y_title="", edges=range(len(heights) + 1), heights=heights,
        told=["" for _ in heights], x_ticks=[], whole=whole,
    )  # fmt: skip
    values = [value for value, _ in chart._levels()]
    assert values[0] == 0
    assert values[-1] >= max(heights)
    assert 2 <= len(values) <= 6
    assert not whole or all(value == int(value) for value in values)
