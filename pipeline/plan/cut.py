"""Cuts the spans of a file into ranges, one for each split."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from pipeline.source.formats import Span


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a file that one split takes, and the part of the split's caps that it fills.

    span: the start of the span that the range is a part of; None if the range is one or several whole spans.
    """

    start: int
    stop: int
    weight: float
    stored_bytes: float
    span: int | None = None


def cut_spans(spans: Sequence[Span], max_rows: int, max_bytes: float) -> Iterator[Range]:
    """Yields ranges that cover the spans without gaps.

    No range exceeds the caps, as far as the spans know their rows and bytes. Small spans are joined; a large
    one is cut into equal parts.
    """

    def weight(span: Span) -> float:
        return max(span.rows / max_rows, span.text_bytes / max_bytes)

    run: Span | None = None
    for span in spans:
        if run is not None:
            joined = Span(
                run.start,
                span.stop,
                run.rows + span.rows,
                run.text_bytes + span.text_bytes,
                run.stored_bytes + span.stored_bytes,
            )
            if weight(joined) <= 1:
                run = joined
                continue
            yield Range(run.start, run.stop, weight(run), run.stored_bytes)
        run = None
        parts = min(span.stop - span.start, ceil(weight(span)))
        if parts <= 1:
            run = span
            continue
        size = span.stop - span.start
        edges = (span.start + size * part // parts for part in range(parts + 1))
        for start, stop in itertools.pairwise(edges):
            yield Range(start, stop, weight(span) / parts, span.stored_bytes / parts, span.start)
    if run is not None:
        yield Range(run.start, run.stop, weight(run), run.stored_bytes)
