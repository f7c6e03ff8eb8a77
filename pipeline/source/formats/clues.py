r"""Finds signs in the start of a CSV or TSV file that it was written in another dialect than told.

Such a file often parses without a fault: `\N` is a text, a backslash stays before its quote. Each clue is a
sentence that names the setting that would fit. Pure.
"""

import re
from collections.abc import Iterator

from pipeline.config.source import Source
from pipeline.source.formats.delimited import OTHER_DELIMITERS

MANY = 0.5
"""The fraction of lines that another delimiter must be in, while the expected one is missing there."""


def clues(start: str, source: Source) -> Iterator[str]:
    """Yields what the first lines of a file say against the dialect of its source.

    Args:
        start: complete lines.
    """
    yield from _escapes(start, source)
    yield from _nulls(start, source)
    yield from _delimiters(start, source)
    yield from _quotes(start, source)
    yield from _spaces(start, source)
    yield from _headers(start, source)


def _escapes(start: str, source: Source) -> Iterator[str]:
    quote = source.csv.quote
    if not quote or source.csv.escape:
        return
    delimiter = re.escape(source.csv.delimiter or "")
    # A backslash before a quote that does not close the field: a path may end with one.
    inside = re.compile(rf"\\{quote}(?!{quote}|{delimiter}|\r|\n|\Z)")
    if found := len(inside.findall(start)):
        yield f"has a backslash before a quote {found} times, as Spark writes it; see csv.escape: '\\'"


def _nulls(start: str, source: Source) -> Iterator[str]:
    if r"\N" in source.csv.null_values:
        return
    delimiter = re.escape(source.csv.delimiter or "")
    if found := len(re.findall(rf"(?:^|(?<={delimiter}))\\N(?={delimiter}|\r?$)", start, re.M)):
        yield rf"has {found} fields \N, the null of Hive and MySQL; see csv.null_values: ['\N']"


def _delimiters(start: str, source: Source) -> Iterator[str]:
    lines = [line for line in start.splitlines() if line.strip()]
    expected = source.csv.delimiter or ""
    without = [line for line in lines if expected not in line]
    if len(lines) < 2 or len(without) < MANY * len(lines):
        return
    for other, written in OTHER_DELIMITERS.items():
        having = sum(other in line for line in without)
        if other != expected and having >= MANY * len(lines):
            told = "a tab" if other == "\t" else f"{other!r}"
            yield f'has {told} and no {expected!r} in most lines; see csv.delimiter: "{written}"'
            return


def _quotes(start: str, source: Source) -> Iterator[str]:
    if source.csv.quote:
        return
    delimiter = re.escape(source.csv.delimiter or "")
    fields = re.findall(rf'(?:^|(?<={delimiter}))"(?:[^"\n]|"")*"(?={delimiter}|\r?$)', start, re.M)
    # A text may be a quotation as a whole; but no text doubles its quotes.
    if any('""' in field[1:-1] for field in fields) or len(fields) > MANY * start.count("\n"):
        yield f"has {len(fields)} fields in quotes, which become part of their texts; see csv.quote: '\"'"


def _spaces(start: str, source: Source) -> Iterator[str]:
    if not source.csv.quote:
        return
    quote, delimiter = re.escape(source.csv.quote), re.escape(source.csv.delimiter or "")
    fields = re.findall(rf"{delimiter} +{quote}[^{quote}\n]*{quote}", start)
    if len(fields) > MANY * start.count("\n"):
        count = len(fields)
        yield f"has spaces before {count} quotes, which become part of the texts; write it without them"


def _headers(start: str, source: Source) -> Iterator[str]:
    first, *others = (line.removeprefix("\ufeff").strip() for line in start.split("\n"))
    if source.csv.names is None and first and (found := others.count(first)):
        yield f"has its first line {found} times more, as a row; take out the headers of joined files"
