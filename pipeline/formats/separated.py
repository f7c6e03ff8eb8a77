"""CSV and TSV, by Python's own reader; every column is a string, as it stands in the file.

Where a field may hold a line end, only reading from the start tells where rows begin: such a file is counted
once when planning and streamed in one scan, its rows numbered from 0 behind the header. Elsewhere a plain
file is cut like lines of text, a row a line, and a row's position is its byte offset. Blank lines are no
rows.

A row with more or fewer fields than there are columns is rejected; so is one that can't be read.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.formats import lines
from pipeline.formats.compression import blocks, compression
from pipeline.formats.piece import LONGEST_DOCUMENT, Piece, Raw, Survey, in_ranges
from pipeline.formats.values import strings_of
from pipeline.sources import Source

Row = list[str] | None
"""The fields of a row; None where it can't be read."""
BLOCK_ROWS = 4096
ESCAPE = "surrogateescape"
"""How bytes that are no UTF-8 pass through Python's reader."""
END = "\ue000end-of-the-file\ue000"
"""Put behind the last line: in a quoted field that nobody closed it comes out as a part of it."""
csv.field_size_limit(LONGEST_DOCUMENT)


def survey(file: pa.NativeFile, name: str, size: int, source: Source) -> Survey:
    """How the file can be cut, and its columns.

    Raises:
        SourceError: it lacks a column that the config names.
    """
    method = compression(name, source)
    if not size:
        return Survey("rows", pa.schema([]), ())
    if method is None and not source.csv.newlines_in_fields:
        columns = _columns(_header(file, source), source)
        return Survey("bytes", columns, lines.byte_span(size, list(lines.samples(file, size))))
    rows = _rows(file, method, source)
    names = _names(rows, source)
    if not names:
        return Survey("rows", pa.schema([]), ())
    spans = lines.row_spans(((1, sum(map(len, row or ()))) for row in rows), size)
    return Survey("rows", _columns(names, source), spans, streamed=True)


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, _: pa.Schema) -> Iterator[Raw]:
    """The rows of each piece."""
    if pieces[0].unit == "bytes":
        names = _header(file, source)
        for found in lines.read(file, pieces, None):
            yield _raw_of_lines(found, names, source)
        return
    rows = _rows(file, compression(pieces[0].file, source), source)
    names = _names(rows, source)
    blocks_of_rows = iter(lambda: list(islice(rows, BLOCK_ROWS)), [])
    tables = (_table(block, names, source) for block in blocks_of_rows)
    for piece, table in in_ranges(tables, pieces):
        positions = pa.array(np.arange(piece.start, piece.stop, dtype=np.int64))
        yield Raw.of(table, positions, piece.start, piece.stop)


def _raw_of_lines(found: lines.Lines, names: Sequence[str], source: Source) -> Raw:
    texts = [line.decode("utf-8", ESCAPE) for line in found.texts.cast(pa.large_binary()).to_pylist()]
    header = found.start == 0 and source.csv.names is None
    rows = _a_row_a_line(texts, source)[header:]
    kept = [at for at, row in enumerate(rows) if row != []]
    positions = found.positions.slice(int(header)).take(pa.array(kept, pa.int64()))
    table = _table([rows[at] for at in kept], names, source)
    return Raw.of(table, positions, found.start, found.stop)


def _table(rows: Sequence[Row], names: Sequence[str], source: Source) -> pa.Table:
    """As `Raw.of` takes it, with the carried columns that the file has."""
    whole = [row if row is not None and len(row) == len(names) else None for row in rows]

    def column(path: str) -> pa.Array:
        place = names.index(path)
        return strings_of([row[place] if row else None for row in whole], ESCAPE)

    faults = pa.array(["invalid_csv" if row is None else "" for row in whole], pa.string())
    carried = {name: column(path) for name, path in source.fields.items() if path in names}
    return pa.Table.from_arrays(
        [column(source.text_column or ""), faults, *carried.values()], names=["", "", *carried]
    )


def _rows(file: pa.NativeFile, method: str | None, source: Source) -> Iterator[Row]:
    """All rows of a file, the first among them; blank lines left out behind it."""
    texts = chain(_text_lines(blocks(file, method)), [END])
    reader = csv.reader(texts, **_dialect(source))
    first = True
    while True:
        try:
            row: Row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = None
        if row == [END]:
            return
        if row and END in row[-1]:
            row = None
        if row != [] or first:
            yield row
        first = False


def _text_lines(data: Iterable[bytes]) -> Iterator[str]:
    """Lines with their ends, which may stand in a field."""
    tail, first = b"", True
    for block in data:
        if first:
            lines.refuse_other_encodings(block)
        *whole, rest = (tail + block).split(b"\n")
        for line in whole:
            yield _decoded(line, first) + "\n"
            first = False
        tail = rest
        lines.refuse_longer(len(tail))
    if tail:
        yield _decoded(tail, first)


def _decoded(line: bytes, first: bool) -> str:
    return (line.removeprefix(lines.MARK) if first else line).decode("utf-8", ESCAPE)


def _a_row_a_line(texts: Sequence[str], source: Source) -> list[Row]:
    """Rows of lines: where one has a quote that is not closed in it, each line is read on its own."""
    try:
        rows: list[Row] = list(csv.reader([*texts, END], **_dialect(source)))
    except csv.Error:
        rows = []
    whole = len(rows) == len(texts) + 1 and rows[-1] == [END]
    return rows[:-1] if whole else [_alone(text, source) for text in texts]


def _alone(text: str, source: Source) -> Row:
    reader = csv.reader((text, END), **_dialect(source))
    try:
        row = next(reader)
    except csv.Error:
        return None
    return row if reader.line_num == 1 else None


def _header(file: pa.NativeFile, source: Source) -> Sequence[str]:
    """The columns' names, from the first line where the config does not name them."""
    if source.csv.names:
        return source.csv.names
    return _names(iter([_alone(_decoded(lines.first_line(file), first=True), source)]), source)


def _names(rows: Iterator[Row], source: Source) -> Sequence[str]:
    """The columns' names; the first row is taken where it holds them. None of a file without a row."""
    names = source.csv.names or next(rows, ())
    if not names and names != ():
        raise SourceError("its first line names no columns", hint="name them in csv.names")
    return names or ()


def _columns(names: Sequence[str], source: Source) -> pa.Schema:
    for name in (source.text_column, source.id_column):
        if name and name not in names:
            raise SourceError(
                "has no such column",
                got=f"{name!r} among {', '.join(names)}",
                hint="check text_column, id_column and csv",
            )
    for name in (source.text_column, *source.fields.values()):
        if name and names.count(name) > 1:
            raise SourceError("has a column twice", got=repr(name), hint="rename one of them")
    found = [name for name, path in source.fields.items() if path in names]
    return pa.schema([pa.field(name, pa.string()) for name in found])


def _dialect(source: Source) -> dict[str, Any]:
    quote = source.csv.quote
    quoting = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    return {"delimiter": source.csv.delimiter, **quoting}
