"""Draws charts as inline SVG: columns, bars and dots, with axes, units, and texts for screen readers.

A chart is drawn twice, wide and narrow. The page shows the one that fits, so text keeps its size on a phone.
Lengths are CSS pixels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.operate.report.axis import Tick, round_step, ticks
from pipeline.operate.report.markup import element, join

WIDE, HALF, NARROW = 960, 460, 340
HEIGHT = 240
LETTER, NAME_LETTER = 7.2, 7.6
"""The approximate widths of a letter at an axis and of one in a bar's name."""
TOP, BOTTOM, RIGHT = 26, 42, 12
ROW = 34
"""The height of a bar and the space below it."""
DOTS = (720, 580)
EDGES = (84, 706, 38, 518)
"""Left, right, top and bottom of the plane with the dots; they leave room for letters twice as large."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns side by side, one between each two neighbouring edges.

    label: the description of the chart.  told: the description of each column.
    marks: vertical lines at places of the axis, with their names.  whole: true if the heights are counts.
    """

    label: str
    x_title: str
    y_title: str
    edges: Sequence[float]
    heights: Sequence[float]
    told: Sequence[str]
    x_ticks: Sequence[Tick]
    marks: Sequence[Tick] = ()
    whole: bool = True

    def draw(self, width: int) -> Markup:
        """Draws the chart as one SVG."""
        y_ticks = self._levels()
        top = y_ticks[-1][0]
        left = 14 + LETTER * max(len(name) for _, name in y_ticks)
        across = _Scale(self.edges[0], self.edges[-1], left, width - RIGHT)
        up = _Scale(0, top, HEIGHT - BOTTOM, TOP)
        return _svg(
            self.label,
            (width, HEIGHT),
            element("text", self.y_title, class_="unit", x=0, y=12),
            *(_level(up(value), name, left, width - RIGHT) for value, name in y_ticks),
            *(self._column(number, across, up) for number in range(len(self.heights))),
            *(_foot(across(at), name, width) for at, name in _thinned(self.x_ticks, across)),
            element("text", self.x_title, class_="unit", x=width - RIGHT, y=HEIGHT - 4, text_anchor="end"),
            *(_mark(across(at), name, width) for at, name in self.marks),
        )

    def _levels(self) -> list[Tick]:
        """Returns round values, the last of them not below the highest column."""
        most, least = max(self.heights), 1.0 if self.whole else 0.0
        step = max(round_step(most / 4), least)
        return ticks(step * max(math.ceil(most / step - 1e-9), 1), 4, least=step)

    def _column(self, number: int, across: "_Scale", up: "_Scale") -> Markup:
        left, right = (across(edge) for edge in self.edges[number : number + 2])
        gap = min(2.0, (right - left) / 5)
        height = up(0) - up(self.heights[number])
        if self.heights[number]:
            height = max(height, 1.0)  # a small column stays visible
        return element(
            "rect",
            class_="mark",
            x=_number(left + gap / 2),
            y=_number(up(0) - height),
            width=_number(right - left - gap),
            height=_number(height),
            data_told=self.told[number],
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a bar chart: its name, its length, the text behind it, and the class of its colour."""

    name: str
    value: float
    told: str
    kind: str = "mark"


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Horizontal bars, one below the other, each with its name and its text.

    label: the description of the chart; the bars' names and texts are added to it.
    """

    label: str
    x_title: str
    bars: Sequence[Bar]

    def draw(self, width: int) -> Markup:
        """Draws the chart as one SVG; long names stand above their bars, others before them."""
        names = 12 + NAME_LETTER * max(len(bar.name) for bar in self.bars)
        behind = 10 + NAME_LETTER * max(len(bar.told) for bar in self.bars)
        above = 18 if names > 0.4 * width else 0
        height = TOP + (ROW + above) * len(self.bars) + 22
        across = _Scale(
            0, max([bar.value for bar in self.bars] + [0]) or 1, 0 if above else names, width - behind
        )
        marks = ticks(across.high, 4)
        return _svg(
            f"{self.label}: {'; '.join(f'{bar.name} {bar.told}' for bar in self.bars)}.",
            (width, height),
            element("text", self.x_title, class_="unit", x=_number(across.start), y=12),
            *(_upright(across(value), TOP - 4, height - 20) for value, _ in marks),
            *(_foot(across(value), name, width, height - 6) for value, name in _thinned(marks, across)),
            *(
                self._bar(bar, TOP + (ROW + above) * number, above, across)
                for number, bar in enumerate(self.bars)
            ),
        )

    @staticmethod
    def _bar(bar: Bar, y: int, above: int, across: "_Scale") -> Markup:
        width = max(across(bar.value) - across.start, 1.5 if bar.value else 0)
        name_at = (0, y + 12, "start") if above else (across.start - 8, y + 16, "end")
        return join(
            _name(bar.name, *name_at),
            element(
                "rect",
                class_=bar.kind,
                x=_number(across.start),
                y=y + above,
                width=_number(width),
                height=ROW - 12,
                data_told=f"{bar.name}: {bar.told}",
            ),
            _name(bar.told, across.start + width + 6, y + above + 16),
        )


@dataclass(frozen=True, slots=True)
class Dot:
    """A point, the number of its colour (-1: none of its own), its text, and the row that it stands for."""

    x: float
    y: float
    colour: int
    told: str | None
    place: str | None


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Coloured points on a plane."""

    label: str
    x_title: str
    y_title: str
    dots: Sequence[Dot]

    def draw(self) -> Markup:
        """Draws one SVG for every width: only its letters and dots change their size (page.css)."""
        left, right, top, bottom = EDGES
        across = _around([dot.x for dot in self.dots], left, right)
        up = _around([dot.y for dot in self.dots], bottom, top)
        by_colour: dict[int, list[Markup]] = {}
        for dot in self.dots:
            by_colour.setdefault(dot.colour, []).append(_dot(dot, across, up))
        return _svg(
            self.label,
            DOTS,
            element("rect", class_="frame", x=left, y=top, width=right - left, height=bottom - top),
            *(_upright(across(value), top, bottom) for value, _ in across.round_ones()),
            *(_foot(across(value), name, DOTS[0], bottom + 26) for value, name in across.round_ones()),
            *(_level(up(value), name, left, right) for value, name in up.round_ones()),
            element("text", self.y_title, class_="unit", x=0, y=22),
            element("text", self.x_title, class_="unit", x=right, y=DOTS[1] - 6, text_anchor="end"),
            # Draws those without a colour first, so that they lie below the others.
            *(element("g", *by_colour[colour], class_=f"c{colour}") for colour in sorted(by_colour)),
            class_="dots",
        )


@dataclass(frozen=True, slots=True)
class _Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def round_ones(self) -> list[Tick]:
        """Returns round values on both sides of zero."""
        most = max(abs(self.low), abs(self.high))
        both = [(sign * value, f"{sign * value:.3g}") for value, _ in ticks(most, 4) for sign in (1, -1)]
        return [(value, name) for value, name in both if self.low <= value <= self.high and name != "-0"]


def both(chart: Columns | Bars, wide: int = WIDE) -> Markup:
    """Draws a chart for wide and for narrow windows."""
    return join(
        element("div", chart.draw(wide), class_="wide"), element("div", chart.draw(NARROW), class_="narrow")
    )


def _svg(label: str, size: tuple[int, float], *content: Markup, class_: str | None = None) -> Markup:
    width, height = size
    view = f"0 0 {width} {_number(height)}"
    return element("svg", *content, class_=class_, role="img", aria_label=label, viewBox=view, width=width)


def _around(values: Sequence[float], start: float, stop: float) -> _Scale:
    """Returns a scale with some room on both sides of the values."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 1.0
    return _Scale(low - room, high + room, start, stop)


def _dot(dot: Dot, across: _Scale, up: _Scale) -> Markup:
    at = {"cx": _number(across(dot.x)), "cy": _number(up(dot.y)), "r": 4}
    return element("circle", **at, data_told=dot.told, data_place=dot.place)


def _level(y: float, name: str, left: float, right: float) -> Markup:
    line = element("line", class_="grid", x1=_number(left), x2=_number(right), y1=_number(y), y2=_number(y))
    text = element("text", name, x=_number(left - 8), y=_number(y + 4), text_anchor="end")
    return join(line, text)


def _upright(x: float, top: float, bottom: float) -> Markup:
    return element("line", class_="grid", x1=_number(x), x2=_number(x), y1=top, y2=_number(bottom))


def _name(name: str, x: float, y: float, anchor: str = "start") -> Markup:
    return element("text", name, class_="name", x=_number(x), y=_number(y), text_anchor=anchor)


def _foot(x: float, name: str, width: int, y: float = HEIGHT - BOTTOM + 17) -> Markup:
    """Draws a name below a tick, inside the chart."""
    half = LETTER * len(name) / 2
    x = min(max(x, half), width - half)
    return element("text", name, x=_number(x), y=_number(y), text_anchor="middle")


def _mark(x: float, name: str, width: int) -> Markup:
    """Draws a vertical line, named on the side that has room."""
    before = x > 0.6 * width
    line = element("line", class_="limit", x1=_number(x), x2=_number(x), y1=TOP - 8, y2=HEIGHT - BOTTOM)
    place = {"x": _number(x - 5 if before else x + 5), "y": TOP - 1, "class_": "limit"}
    return join(line, element("text", name, text_anchor="end" if before else "start", **place))


def _thinned(marks: Iterable[Tick], scale: _Scale) -> list[Tick]:
    """Returns the ticks whose names do not overlap the previous one."""
    kept: list[Tick] = []
    end = float("-inf")
    for at, name in marks:
        half = LETTER * len(name) / 2
        if scale(at) - half > end + 6:
            kept.append((at, name))
            end = scale(at) + half
    return kept


def _number(value: float) -> str:
    """Formats a coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
