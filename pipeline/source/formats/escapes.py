r"""Parses rows of CSV that the reader of Python can't: with an escape character, or with nulls beside quotes.

There are two such dialects. Where fields may have quotes (Spark), the escape stands before a quote or before
itself within a quoted field; everywhere else it is a character like others. Where they have none (MySQL,
PostgreSQL, Hive), it stands before a delimiter, a line end, itself or a letter: `\t` is a tab.

A null is a field without quotes that equals one of `csv.null_values` as it is written.

Parsing is strict, and fails as the reader of Python does: a closing quote ends its field.

Memory: one row.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pipeline.config.source import Csv

Fields = list[str | None]
Field = tuple[str | None, str, int]
"""A field, the line in which it ends, and the place behind it there."""
LETTERS = {
    "0": "\0", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "Z": "\x1a",
}  # fmt: skip
"""The meaning of a letter behind an escape, in files without quotes. Others stand for themselves."""


@dataclass(frozen=True, slots=True)
class _Grammar:
    """The expressions of a dialect.

    special: a line without it is cut at delimiters.  plain: a field without quotes.
    inner: what is within quotes, up to the closing one.  end: a delimiter, or a line end.
    escaped: an escape with what follows it.
    """

    special: re.Pattern[str]
    plain: re.Pattern[str]
    inner: re.Pattern[str]
    end: re.Pattern[str]
    escaped: re.Pattern[str] | None
    quote: str
    delimiter: str
    nulls: frozenset[str]


def needs(dialect: Csv) -> bool:
    """Tells whether a dialect needs this parser."""
    return bool(dialect.escape or (dialect.null_values and dialect.quote))


def reader(lines: Iterator[str], dialect: Csv) -> Iterator[Fields]:
    """Yields the rows of lines; a blank line is a row without fields.

    Raises:
        csv.Error: a row can't be read; the lines before the next one are taken.
    """
    grammar = _grammar(dialect)
    for line in lines:
        yield _row(line, lines, grammar) if grammar.special.search(line) else _cut(line, grammar)


@lru_cache
def _grammar(dialect: Csv) -> _Grammar:
    delimiter, quote, escape = (
        re.escape(each or "") for each in (dialect.delimiter, dialect.quote, dialect.escape)
    )
    escaped = None
    if not quote:
        special = rf"{escape}|\r"
        plain = inner = rf"(?:[^{delimiter}{escape}\r\n]|{escape}[\s\S])*+"
        escaped = re.compile(rf"{escape}([\s\S])")
    elif escape:
        special, plain = rf"{quote}|\r", rf"[^{delimiter}\r\n]*+"
        inner = rf"(?:[^{quote}{escape}]|{escape}[\s\S])*+"
        escaped = re.compile(rf"{escape}([{quote}{escape}])")
    else:
        special, plain = rf"{quote}|\r", rf"[^{delimiter}\r\n]*+"
        inner = rf"(?:[^{quote}]|{quote}{quote})*+"
    return _Grammar(
        special=re.compile(special),
        plain=re.compile(plain),
        inner=re.compile(inner),
        end=re.compile(rf"{delimiter}|\r*\n?\Z"),
        escaped=escaped,
        quote=dialect.quote or "",
        delimiter=dialect.delimiter or "",
        nulls=frozenset(dialect.null_values),
    )


def _row(line: str, lines: Iterator[str], grammar: _Grammar) -> Fields:
    """Returns the fields of the row that begins with a line; takes more lines if it must."""
    field = _quoted if grammar.quote else _unquoted
    fields: Fields = []
    text, place = line, 0
    while True:
        value, text, place = field(text, place, lines, grammar)
        fields.append(value)
        ended = grammar.end.match(text, place)
        if ended is None:
            raise csv.Error("neither a delimiter nor the end of a line behind a field")
        place = ended.end()
        if ended.group() != grammar.delimiter:
            break
    return [] if grammar.quote and fields in ([""], [None]) and not line.strip("\r\n") else fields


def _quoted(text: str, place: int, lines: Iterator[str], grammar: _Grammar) -> Field:
    """Reads a field of a dialect with quotes."""
    if text.startswith(grammar.quote, place):
        return _closed(text, place + 1, lines, grammar)
    found = grammar.plain.match(text, place)
    assert found
    return _or_null(found.group(), grammar), text, found.end()


def _closed(text: str, place: int, lines: Iterator[str], grammar: _Grammar) -> Field:
    """Reads a field from behind its opening quote to its closing one; takes more lines if it must."""
    parts = []
    while True:
        found = grammar.inner.match(text, place)
        assert found
        parts.append(found.group())
        if text.startswith(grammar.quote, found.end()):
            return _plain("".join(parts), grammar), text, found.end() + 1
        more = next(lines, None)
        if more is None or found.end() < len(text):
            raise csv.Error("a quote that nothing closes")
        text, place = more, 0


def _plain(value: str, grammar: _Grammar) -> str:
    """Returns what a quoted field stands for."""
    if grammar.escaped:
        return grammar.escaped.sub(r"\1", value)
    return value.replace(2 * grammar.quote, grammar.quote)


def _unquoted(text: str, place: int, lines: Iterator[str], grammar: _Grammar) -> Field:
    """Reads a field of a dialect without quotes. It goes on behind an escaped line end."""
    found = grammar.plain.match(text, place)
    assert found
    while found.end() == len(text) and found.group().endswith("\n"):
        more = next(lines, None)
        if more is None:
            raise csv.Error("an escape that nothing follows")
        text = found.group() + more
        found = grammar.plain.match(text)
        assert found
    return _unescaped(found.group(), grammar), text, found.end()


def _unescaped(value: str, grammar: _Grammar) -> str | None:
    assert grammar.escaped
    if value in grammar.nulls:
        return None
    return grammar.escaped.sub(lambda found: LETTERS.get(found.group(1), found.group(1)), value)


def _cut(line: str, grammar: _Grammar) -> Fields:
    """Cuts a line without quotes, escapes and CRs."""
    line = line.removesuffix("\n")
    return [_or_null(field, grammar) for field in line.split(grammar.delimiter)] if line else []


def _or_null(value: str, grammar: _Grammar) -> str | None:
    return None if value in grammar.nulls else value
