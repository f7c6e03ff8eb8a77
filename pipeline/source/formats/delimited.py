"""Reads CSV and TSV, as a rule with the reader of Python. Every column is a string, as it stands in the file.

If a field may hold a line end, only reading from the start tells where rows begin. The planner counts the
rows of such a file once, and one scan streams it; its rows are numbered from 0 after the header. Otherwise a
plain file is cut like lines of text: a line is a row, and the position of a row is its byte offset. Blank
lines are not rows.

A row with more or fewer fields than columns is rejected, and so is a row that does not follow the dialect or
does not end. Nothing is altered to make it fit: text behind a closing quote is not part of a field.

Memory: one row with all its fields; only the wanted fields of the others.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source.formats import bounds, escapes, lines
from pipeline.source.formats.columns import strings_of
from pipeline.source.formats.compression import compression, known_compression
from pipeline.source.formats.encoding import UTF_8, can_be_cut, content
from pipeline.source.formats.format import Format
from pipeline.source.formats.ranges import in_ranges
from pipeline.source.piece import LONGEST_DOCUMENT, Piece, RawRows, Survey, named

Row = Sequence[str | None] | None
"""The fields of a row; None if it can't be read."""
Wanted = tuple[str | None, ...] | None
"""The text, the carried fields and the first field of a row; None if it can't be read, or lacks a column."""
BLOCK_ROWS, BLOCK_BYTES = 4096, 1 << 20
ESCAPE = "surrogateescape"
"""The error handler by which bytes that are not UTF-8 pass through the reader of Python."""
OTHER_DELIMITERS = {";": ";", "\t": "\\t", "|": "|", ",": ","}
"""Delimiters that a file may have in place of the expected one, as they are written in a config."""
SEPARATOR = re.compile(r"sep=([^\w\s]?)\r?")
"""The line that tells Excel which delimiter a file has."""
csv.field_size_limit(LONGEST_DOCUMENT)


def survey(file: pa.NativeFile, name: str, size: int, source: Source) -> Survey:
    """Finds how the file can be cut, and its columns.

    Raises:
        SourceError: it lacks a column that the config names.
    """
    method = known_compression(name, source)
    if not size:
        return Survey("rows", pa.schema([]), ())
    if method is None and not source.csv.newlines_in_fields and can_be_cut(file, source):
        columns = _columns(_header(file, source), source)
        return Survey("bytes", columns, lines.byte_span(size, list(lines.samples(file, size))))
    rows = _rows(file, method, size, source)
    names = _names(rows, source)
    if not names:
        return Survey("rows", pa.schema([]), ())
    spans = lines.row_spans(((1, _length(row or ())) for row in rows), size)
    return Survey("rows", _columns(names, source), spans, streamed=True)


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, _: pa.Schema) -> Iterator[RawRows]:
    """Yields the rows of each piece."""
    if pieces[0].unit == "bytes":
        names = _header(file, source)
        for found in lines.read(file, pieces, None, source):
            yield _raw_of_lines(found, names, source)
        return
    rows = _rows(file, compression(pieces[0].file, source), pieces[0].size, source)
    names = _names(rows, source)
    for piece, table in in_ranges(_tables(rows, names, source), pieces):
        positions = pa.array(np.arange(piece.start, piece.stop, dtype=np.int64))
        yield RawRows.of(table, positions, piece.start, piece.stop)


def _raw_of_lines(found: lines.Lines, names: Sequence[str], source: Source) -> RawRows:
    """Parses a few lines at a time: as Python objects their fields take many times their bytes."""
    starts = range(0, len(found.texts), BLOCK_ROWS)
    binary = (found.texts.slice(start, BLOCK_ROWS).cast(pa.large_binary()) for start in starts)
    texts = ([line.decode("utf-8", ESCAPE) for line in block.to_pylist()] for block in binary)
    rows = chain.from_iterable(_a_row_a_line(block, source) for block in texts)
    kept: list[int] = []
    header = found.start == 0 and source.csv.names is None
    tables = list(_tables(_kept(rows, header, kept), names, source))
    table = pa.concat_tables(tables or [_table([], names, source)])
    positions = found.positions.take(pa.array(kept, pa.int64()))
    return RawRows.of(table, positions, found.start, found.stop)


def _kept(rows: Iterable[Row], header: bool, kept: list[int]) -> Iterator[Row]:
    """Yields the rows without the header and blank lines; adds their places to `kept`."""
    for at, row in enumerate(rows):
        if row != [] and not (header and at == 0):
            kept.append(at)
            yield row


def _tables(rows: Iterable[Row], names: Sequence[str], source: Source) -> Iterator[pa.Table]:
    """Yields tables of a block of rows each, as `_table` makes them."""
    carried = [path for path in source.fields.values() if path in names]
    # The last field is not wanted, but `itemgetter` of a single field would not return a tuple.
    wanted = itemgetter(*(names.index(path) for path in (source.text_column or "", *carried)), 0)
    block: list[Wanted] = []
    count, size = len(names), 0
    for row in rows:
        if row is None or len(row) != count:
            block.append(None)
        else:
            block.append(found := wanted(row))
            size += _length(found)
        if size >= BLOCK_BYTES or len(block) == BLOCK_ROWS:
            yield _table(block, names, source)
            block, size = [], 0
    if block:
        yield _table(block, names, source)


def _length(fields: Iterable[str | None]) -> int:
    return sum(len(field) for field in fields if field)


def _table(rows: Sequence[Wanted], names: Sequence[str], source: Source) -> pa.Table:
    """Makes the table that `RawRows.of` takes, with the carried columns that the file has."""
    carried = [name for name, path in source.fields.items() if path in names]
    columns = [
        strings_of([row[place] if row else None for row in rows], ESCAPE) for place in range(1 + len(carried))
    ]
    faults = pa.array(["invalid_csv" if row is None else "" for row in rows], pa.string())
    return pa.Table.from_arrays([columns[0], faults, *columns[1:]], names=["", "", *carried])


def _rows(file: pa.NativeFile, method: str | None, size: int, source: Source) -> Iterator[Row]:
    """Yields all rows of a file, including the first; leaves out blank lines after it."""
    texts = _text_lines(content(file, method, size, source), size)
    taken, first = _Taken(), True
    reader = _reader(_fed(texts, taken, source), source)
    while True:
        taken.characters = taken.fields = 0
        try:
            row: Row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row, reader = None, _reader(_fed(texts, taken, source), source)
        if row != [] or first:
            yield row
        first = False


def _reader(texts: Iterator[str], source: Source) -> Iterator[Row]:
    """Returns a strict reader of lines: it raises `csv.Error` for a row that does not follow the dialect."""
    dialect = source.csv
    if escapes.needs(dialect):
        return escapes.reader(texts, dialect)
    quoting: dict[str, Any] = {"quotechar": dialect.quote} if dialect.quote else {"quoting": csv.QUOTE_NONE}
    found = csv.reader(texts, delimiter=dialect.delimiter or ",", strict=True, **quoting)
    return _with_nulls(found, dialect.null_values) if dialect.null_values else found


def _with_nulls(rows: Iterator[list[str]], nulls: Sequence[str]) -> Iterator[Row]:
    return ([None if field in nulls else field for field in row] for row in rows)


@dataclass(slots=True)
class _Taken:
    """The input that the reader of Python took since the last row; it only bounds single fields."""

    characters: int = 0
    fields: int = 0


def _fed(texts: Iterator[str], taken: _Taken, source: Source) -> Iterator[str]:
    """Yields the lines, until a row is too long.

    Raises:
        csv.Error: a row has too many fields, or does not end.
    """
    delimiter = source.csv.delimiter or ","
    for text in texts:
        taken.characters += len(text)
        if taken.characters > bounds.MAX_VALUES:  # each field has at least one character
            taken.fields += text.count(delimiter)
            if taken.fields > bounds.MAX_VALUES:
                raise csv.Error("a row has too many fields")
        if taken.characters > LONGEST_DOCUMENT + 1:
            raise csv.Error("a row does not end")
        yield text


def _text_lines(data: Iterable[bytes], size: int) -> Iterator[str]:
    """Yields lines with their ends, since an end may be part of a field."""
    tail: list[bytes] = []
    held, first, count = 0, True, 0
    for block in data:
        count += block.count(b"\n")
        bounds.refuse_rows(count, size)  # blank lines are not rows, but take as long
        if first and not held:
            lines.refuse_other_ends(block)
        end = block.rfind(b"\n") + 1
        if end:
            for line in b"".join([*tail, block[: end - 1]]).split(b"\n"):
                yield _decoded(line, first) + "\n"
                first = False
            tail, held = [], 0
        tail.append(block[end:])
        held += len(block) - end
        lines.refuse_longer(held)
    if held:
        yield _decoded(b"".join(tail), first)


def _decoded(line: bytes, first: bool) -> str:
    return (line.removeprefix(lines.MARK) if first else line).decode("utf-8", ESCAPE)


def _a_row_a_line(texts: Sequence[str], source: Source) -> list[Row]:
    """Parses lines as rows. If one of them is not a row, reads each line on its own."""
    try:
        crowded = any(_crowded(text, source) for text in texts)
        rows: list[Row] = [] if crowded else list(_reader(iter(texts), source))
    except csv.Error:
        rows = []
    return rows if len(rows) == len(texts) else [_alone(text, source) for text in texts]


def _crowded(text: str, source: Source) -> bool:
    return len(text) > bounds.MAX_VALUES < text.count(source.csv.delimiter or "")


def _alone(text: str, source: Source) -> Row:
    if _crowded(text, source):
        return None
    try:
        return next(_reader(iter((text,)), source), [])
    except csv.Error:
        return None


def _header(file: pa.NativeFile, source: Source) -> Sequence[str]:
    """Returns the names of the columns, from the first line if the config does not name them."""
    if source.csv.names:
        return source.csv.names
    return _names(iter([_alone(_decoded(lines.first_line(file), first=True), source)]), source)


def _names(rows: Iterator[Row], source: Source) -> Sequence[str]:
    """Returns the names of the columns; takes the first row if it holds them. An empty file has none."""
    names = source.csv.names or next(rows, ())
    if not names and names != ():
        raise SourceError(
            "its first line names no columns", hint="name them in csv.names, or check the dialect in csv"
        )
    return [name or "" for name in names or ()]


def _columns(names: Sequence[str], source: Source) -> pa.Schema:
    for name in (source.text_column, source.id_column):
        if name and name not in names:
            _refuse_undecodable(names, source)
            _refuse_note_to_excel(names)
            raise SourceError(
                "has no such column", got=f"{name!r} among {named(names)}", hint=_hint(names, source)
            )
    for name in (source.text_column, *source.fields.values()):
        if name and names.count(name) > 1:
            raise SourceError("has a column twice", got=repr(name), hint="rename one of them")
    found = [name for name, path in source.fields.items() if path in names]
    return pa.schema([pa.field(name, pa.string()) for name in found])


def _refuse_undecodable(names: Sequence[str], source: Source) -> None:
    """Refuses names that are not text in the encoding of the source; so no name fits.

    Raises:
        SourceError: one is not.
    """
    if not any("\udc80" <= character <= "\udcff" for name in names for character in name):
        return
    kind = "UTF-8" if source.encoding == UTF_8 else source.encoding
    raise SourceError(
        f"its first line is not {kind}",
        got=named(names),
        hint="set source.encoding to its encoding, such as gbk or cp1252",
    )


def _refuse_note_to_excel(names: Sequence[str]) -> None:
    """Refuses the line `sep=;` before the names of columns, which only Excel leaves out.

    Raises:
        SourceError: it is there.
    """
    note = SEPARATOR.fullmatch(names[0]) if names and len(names) <= 2 and not any(names[1:]) else None
    if note:
        told = f", and set csv.delimiter to {note.group(1)!r}" if note.group(1) else ""
        raise SourceError(
            "its first line is a note to Excel",
            got=repr(names[0]),
            hint=f"remove this line, as by: tail -n +2 FILE{told}",
        )


def _hint(names: Sequence[str], source: Source) -> str:
    """Returns what to do if a column is missing: another delimiter may be in the first line."""
    for other, written in OTHER_DELIMITERS.items():
        if len(names) == 1 and other in names[0] and other != source.csv.delimiter:
            return f'set csv.delimiter to "{written}", which is in its first line'
    return "check text_column, id_column and csv"


FORMAT = Format(survey, read)
