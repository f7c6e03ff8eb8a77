"""Writes the sections about the rows themselves: some of the rejected ones, and a map of some vectors.

No error here may fail a report: the page says in place of a section that it could not be read.
"""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline import telemetry
from pipeline.errors import one_line
from pipeline.humanize import count, plural, share
from pipeline.operate.report import sample
from pipeline.operate.report.charts import HALF, Bar, Bars, Dot, Dots, both
from pipeline.operate.report.markup import beginning, element, end, markup
from pipeline.operate.report.parts import LONGEST_PLACE, MAX_LINES, NOT_KNOWN, NOTHING, section, table
from pipeline.operate.report.projection import OTHER, Colours, Projection, colours, project
from pipeline.operate.report.sample import Sample
from pipeline.operate.report.subject import Subject
from pipeline.operate.report.texts import LONGEST

TEXT_BYTES = 800_000
"""Bytes of all texts in the map, so that the page stays below 2 MB whatever they hold."""


def rejects(subject: Subject) -> Markup:
    """Returns the section of the rejected rows and their reasons."""
    reasons = subject.summary["reject_reasons"]
    if not reasons:
        return NOTHING
    whole = sum(reasons.values())
    bars = [Bar(reason, rows, f"{count(rows)} · {share(rows, whole)}") for reason, rows in reasons.items()]
    chart = Bars(label="Rejected rows by reason", x_title="rows", bars=bars)
    transient = subject.summary["transient"]
    sentence = (
        f"{plural(whole, 'row')}, {share(whole, subject.summary['documents'])} of the source; "
        f"{count(transient)} may succeed in another try (retry-rejects)."
    )
    return section("Rejected rows", sentence, both(chart, HALF), _examples(subject))


def _examples(subject: Subject) -> Markup:
    """Returns some rejects, with the start of their texts if these were kept and may be shown."""
    try:
        found = sample.rejected(subject.dataset, subject.records)
    except Exception as error:  # the boundary: a report without examples is better than none
        telemetry.event("rejects not shown", reason=one_line(error))
        return element("p", "Examples could not be read.")
    shown = subject.config.report.samples and subject.config.report.texts
    lines = [
        (row["reason"], end(f"{row['source_file']}#{row['source_row']}", LONGEST_PLACE), _start(row["text"]))
        for row in found[:MAX_LINES]
    ]
    heads = ("reason", "row", "text")
    return table(heads if shown else heads[:2], lines if shown else [line[:2] for line in lines])


def _start(text: str | None) -> object:
    if not text or not text.strip():
        return NOT_KNOWN
    return element("span", beginning(text, LONGEST), dir="auto")


def map_(subject: Subject) -> Markup:
    """Returns the section with some of the vectors on a plane."""
    title = "A map of the vectors"
    try:
        drawn = sample.drawn(subject.config, subject.dataset, subject.plan, subject.records)
    except Exception as error:  # the boundary: a report without its map is better than none
        telemetry.event("vectors not shown", reason=one_line(error))
        return section(title, "The sampled shards could not be read.")
    projected = project(drawn.vectors) if drawn else None
    if drawn is None or projected is None:
        return NOTHING
    coloured = colours(drawn.carried, drawn.sources)
    return section(
        title,
        _about(subject, drawn, projected, coloured),
        element("div", _legend(coloured), _dots(drawn, projected, coloured).draw(), class_="map"),
    )


def _about(subject: Subject, drawn: Sample, projected: Projection, coloured: Colours) -> str:
    first, second = (share(part, 1) for part in projected.explained)
    read = "Point at one, or touch it, to read the start of its text. " if any(drawn.texts) else ""
    return (
        f"{count(len(drawn.vectors))} of {count(subject.summary['rows'])} rows, drawn from "
        f"{plural(drawn.shards, 'shard')}, by their first two principal components (PCA), which hold {first} "
        f"and {second} of the variance: rows that are near here may be far apart in the others. {read}"
        f"Colour: {coloured.column}."
    )


def _dots(drawn: Sample, projected: Projection, coloured: Colours) -> Dots:
    points = projected.points.tolist()
    texts = _fitting(drawn.texts)
    first, second = (share(part, 1) for part in projected.explained)
    return Dots(
        label=f"{len(points)} rows on the plane of their first two principal components.",
        x_title=f"first component ({first} of the variance)",
        y_title=f"second component ({second})",
        dots=[
            Dot(x, y, colour, text, end(place, LONGEST_PLACE))
            for (x, y), colour, text, place in zip(
                points, coloured.of_rows.tolist(), texts, drawn.places, strict=True
            )
        ],
    )


def _fitting(texts: Sequence[str | None]) -> Sequence[str | None]:
    """Shortens texts until all of them together fit into the page."""
    width = max((len(text) for text in texts if text), default=0)
    while sum(len(markup(text).encode()) for text in texts if text) > TEXT_BYTES:
        width = width * 2 // 3
        texts = [text and beginning(text, width) for text in texts]
    return texts


def _legend(coloured: Colours) -> Markup:
    of_rows = coloured.of_rows.tolist()
    entries = [(number, name, of_rows.count(number)) for number, name in enumerate(coloured.names)]
    if -1 in of_rows:
        entries.append((-1, OTHER, of_rows.count(-1)))
    buttons = [
        element(
            "button",
            element("span", class_=f"swatch c{number}"),
            element("span", name, class_="value"),
            element("span", count(rows), class_="n"),
            type="button",
            aria_pressed="false",
            data_colour=f"c{number}",
        )
        for number, name, rows in entries
    ]
    return element("div", *buttons, class_="legend", role="group", aria_label=f"Colour: {coloured.column}")
