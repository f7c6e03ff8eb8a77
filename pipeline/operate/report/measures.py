"""Writes the sections about the work, with charts: each from a few figures, for any number of shards."""

import bisect
from collections.abc import Callable, Sequence

import pyarrow as pa
from markupsafe import Markup

from pipeline import schema
from pipeline.humanize import count, duration, plural, share, short, size
from pipeline.operate.report import figures
from pipeline.operate.report.axis import time_ticks
from pipeline.operate.report.charts import HALF, Bar, Bars, Columns, both
from pipeline.operate.report.markup import beginning, element, join
from pipeline.operate.report.parts import NOTHING, section
from pipeline.operate.report.subject import Subject
from pipeline.sanitize import first_line

MAX_LABELS, LONGEST_LABEL = 20, 40
"""The most labels that are shown, and the characters of a label."""
MAX_MARKS = 10
"""Attempts whose starts are marked; if there are more, none is marked."""


def over_time(subject: Subject) -> Markup:
    """Returns the section of rows per second."""
    flow = subject.throughput
    if flow is None:
        return NOTHING
    unit, at = time_ticks(flow.seconds)
    edges, rates = flow.edges.tolist(), flow.rates.tolist()
    several = len(flow.starts) > 1
    chart = Columns(
        label=f"Rows a second over {duration(flow.seconds)} at work; the most is {short(max(rates))}.",
        x_title=f"time at work, {unit}",
        y_title="rows/s",
        edges=edges,
        heights=rates,
        told=[f"{duration(edge)}: {short(rate)} rows/s" for edge, rate in zip(edges, rates, strict=False)],
        x_ticks=at,
        whole=False,
        marks=[(start, "new attempt") for start in flow.starts[1:]] if len(flow.starts) <= MAX_MARKS else (),
    )
    sentence = (
        f"{count(flow.rows)} rows in {duration(flow.seconds)}: {short(flow.rows / flow.seconds)} a second, "
        "start-up included. The rows of a shard count evenly over the seconds that a replica took for it. "
        + ("Pauses between attempts are cut out. " if several else "")
        + "Copied shards are left out."
    )
    return section("Throughput", sentence, both(chart))


def stages(subject: Subject) -> Markup:
    """Returns the section of the seconds that each stage took."""
    seconds = {name: schema.total(subject.made, field) for name, field in figures.STAGES.items()}
    whole = sum(seconds.values())
    if not whole:
        return NOTHING
    idle = list(seconds)[-1]
    bars = [
        Bar(name, spent, f"{duration(spent)} · {share(spent, whole)}", "idle" if name == idle else "mark")
        for name, spent in seconds.items()
    ]
    chart = Bars(label="Seconds by stage", x_title="seconds of all processes", bars=bars)
    busy = share(seconds["encode"], seconds["encode"] + seconds[idle])
    sentence = f"Replicas encoded {busy} of their time; for the rest they waited for a split."
    return section("Where the time went", sentence, both(chart, HALF))


def work(subject: Subject) -> Markup:
    """Returns the section of the tokens that repeats saved and padding cost."""
    tokens, computed, padded = (
        schema.total(subject.made, name) for name in ("tokens", "computed_tokens", "padded_tokens")
    )
    if not computed:
        return NOTHING
    bars = [
        Bar("in all rows", tokens, count(tokens)),
        Bar("computed", computed, count(computed)),
        Bar("with padding", padded, count(padded), "idle"),
    ]
    why = "texts repeat, or the base has their vectors" if subject.summary.get("base") else "texts repeat"
    sentence = (
        f"{share(tokens - computed, tokens)} of the tokens needed no work, for {why}. "
        f"Padding added {share(padded - computed, computed)} to the rest."
    )
    chart = Bars(label="Tokens", x_title="tokens", bars=bars)
    return section("Work done, work saved", sentence, both(chart, HALF))


def lengths(subject: Subject) -> Markup:
    """Returns the section of the rows' lengths in tokens, and of the rows that were cut off."""
    rows = figures.token_lengths(subject.records)
    most, limit = int(rows.sum()), subject.identity.get("model.max_tokens")
    if not most:
        return NOTHING
    first = int(rows.nonzero()[0][0])
    stop = max(len(rows), _bucket_place(limit)[1] if limit else 0)
    buckets = schema.TOKEN_BUCKETS
    heights = [int(rows[at]) if at < len(rows) else 0 for at in range(first, stop)]
    told = [
        f"{_range(at)} tokens: {plural(rows_, 'row')} ({share(rows_, most)})"
        for at, rows_ in zip(range(first, stop), heights, strict=True)
    ]
    median, truncated = figures.median_bucket(rows), subject.summary["truncated"]
    chart = Columns(
        label=f"Rows by tokens: half have at most {median}, the longest at most {buckets[len(rows) - 1]}.",
        x_title="tokens, up to",
        y_title="rows",
        edges=range(first, stop + 1),
        heights=heights,
        told=told,
        x_ticks=[(at + 1, count(buckets[at])) for at in range(first, stop)],
        marks=[(_bucket_place(limit)[0], f"max_tokens {count(limit)}")] if limit else (),
    )
    sentence = (
        f"Half of the rows have at most {count(median)} tokens, "
        f"{subject.summary['tokens'] / max(subject.summary['rows'], 1):.1f} on average. "
        f"{plural(truncated, 'row')} ({share(truncated, subject.summary['rows'])}) "
        f"{'was' if truncated == 1 else 'were'} cut off at the limit.{_unknown(subject)}"
    )
    return section("Lengths of the texts", sentence, both(chart))


def _unknown(subject: Subject) -> str:
    """Returns a sentence about the tokens that the model does not know; none if it knows all."""
    unknown, tokens = subject.summary.get("unknown_tokens", 0), subject.summary.get("text_tokens", 0)
    return f" {share(unknown, tokens)} of the tokens are unknown to the model." if unknown else ""


def _bucket_place(tokens: int) -> tuple[float, int]:
    """Returns the place of a number of tokens on an axis of equally wide buckets, and the next edge."""
    buckets = schema.TOKEN_BUCKETS
    at = min(bisect.bisect_left(buckets, tokens), len(buckets) - 1)
    below = buckets[at - 1] if at else 0
    return at + (tokens - below) / (buckets[at] - below), at + 1


def _range(bucket: int) -> str:
    low = (schema.TOKEN_BUCKETS[bucket - 1] if bucket else 0) + 1
    high = schema.TOKEN_BUCKETS[bucket]
    return count(high) if low == high else f"{count(low)} to {count(high)}"


def shards(subject: Subject) -> Markup:
    """Returns the section of the sizes of the shards."""
    records = subject.records
    if not records.num_rows:
        return NOTHING
    charts = [
        _sizes(records, "rows", "rows of a shard", count),
        _sizes(records, "file_bytes", "size of a shard", size),
    ]
    rows, stored = subject.summary["rows"], subject.summary["file_bytes"]
    sentence = (
        f"{plural(records.num_rows, 'shard')}, {size(stored / records.num_rows)} and "
        f"{count(rows / records.num_rows)} rows each on average; {size(stored / max(rows, 1))} a row."
    )
    return section("Shards", sentence, element("div", *charts, class_="pair"))


def _sizes(records: pa.Table, column: str, title: str, told: Callable[[float], str]) -> Markup:
    """Returns a histogram of one figure of the shards."""
    found = figures.histogram(records[column].to_numpy())
    edges, counts = found.edges.tolist(), found.counts.tolist()
    chart = Columns(
        label=f"Shards by {title}: from {told(edges[0])} to {told(edges[-1])}.",
        x_title=title,
        y_title="shards",
        edges=edges,
        heights=counts,
        told=[
            f"{told(low)} to {told(high)}: {plural(shards_, 'shard')}"
            for low, high, shards_ in zip(edges, edges[1:], counts, strict=False)
        ],
        x_ticks=[(at, short(at) if told is count else told(at)) for at in _every(edges, 5)],
    )
    return element("div", both(chart, HALF))


def origins(subject: Subject) -> Markup:
    """Returns the section of the rows and the time that a base saved."""
    summary = subject.summary
    if not summary.get("base"):
        return NOTHING
    whole = summary["copied"] + summary["reused"] + summary["embedded"]
    bars = [
        Bar(name, summary[key], f"{count(summary[key])} · {share(summary[key], whole)}", kind)
        for name, key, kind in (
            ("shards copied", "copied", "idle"), ("vectors reused", "reused", "idle"),
            ("embedded", "embedded", "mark"),
        )
    ]  # fmt: skip
    sentence = (
        f"From {first_line(summary['base'])}. {plural(summary['gone'], 'row')} of it are gone; about "
        f"{duration(summary['encode_seconds_saved'])} of encoding were saved."
    )
    chart = Bars(label="Rows by origin", x_title="rows", bars=bars)
    return section("Where the rows came from", sentence, both(chart, HALF))


def labels(subject: Subject) -> Markup:
    """Returns a section for the labels of each output, by how many rows have them."""
    sections = []
    for output, counted in subject.summary.get("labels", {}).items():
        whole = subject.summary["rows"]
        bars = [
            Bar(beginning(label, LONGEST_LABEL), rows, f"{count(rows)} · {share(rows, whole)}")
            for label, rows in list(counted.items())[:MAX_LABELS]
        ]
        more = len(counted) - len(bars)
        sentence = f"{plural(len(counted), 'label')} that a row has, by the rows that have it, of all rows."
        sentence += f" Not shown: {plural(more, 'rarer label')}." if more else ""
        chart = Bars(label=f"Rows by label of {output}", x_title="rows", bars=bars)
        sections.append(section(f"Labels: {output}", sentence, both(chart, HALF)))
    return join(*sections)


def _every(edges: Sequence[float], about: int) -> list[float]:
    """Returns about so many of the edges, evenly spaced."""
    step = max(1, round((len(edges) - 1) / about))
    return list(edges[::step])
