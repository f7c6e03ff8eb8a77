"""Reads JSON Lines: each line is an object. Files are cut like lines of text.

Samples decide the types of carried columns: 64-bit integers, floats or booleans. All other columns are
strings, and hold a value that is not a string as JSON. A value that does not fit rejects its row.

Memory: the objects of one line at a time, since they take many times its bytes; only the wanted values of
the others.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.sanitize import strip_control
from pipeline.source.formats import bounds, lines, memory
from pipeline.source.formats.columns import MISFIT, Fraction, column_of, fraction, strings_of, text_of
from pipeline.source.formats.compression import compression, known_compression
from pipeline.source.formats.encoding import can_be_cut
from pipeline.source.formats.format import Format
from pipeline.source.piece import MAX_NAMES, Piece, RawRows, Survey, named

SAMPLED_ROWS, SHOWN = 2000, 40
BLOCK_ROWS = 4096
MISSING = object()
DECODER = json.JSONDecoder(parse_float=fraction)
STRUCTURE = (b",", b"[", b"{")
"""The characters of which one precedes each value of a line."""
Outline = tuple[Sequence[str], dict[str, Any]]
"""The names in an object; and its text and carried cells, without the content of nested ones."""


def survey(file: pa.NativeFile, name: str, size: int, source: Source) -> Survey:
    """Finds how the file can be cut (see `lines`), and the columns of its objects.

    Raises:
        SourceError: no line is an object, or none has the text column.
    """
    method = known_compression(name, source)
    whole = bool(method) or not can_be_cut(file, source)
    if whole:
        spans, first = lines.counted(file, size, method, source)
        sampled = [first]
    else:
        data = list(lines.samples(file, size))
        spans = lines.byte_span(size, data)
        sampled = [
            lines.split(np.frombuffer(each, np.uint8), first=not at)[0] for at, each in enumerate(data)
        ]
    objects = [found for texts in sampled for found in _sampled(_binary(texts), source)]
    if not objects and not whole and spans:  # every line is longer than a sample
        objects = list(_sampled([lines.first_line(file)], source))
    _refuse_whole(next((line for texts in sampled for line in _binary(texts) if line.strip()), b""))
    blank = not objects and not any(line.strip() for texts in sampled for line in _binary(texts))
    columns = pa.schema([]) if blank else _columns(objects, source)
    return Survey("rows" if whole else "bytes", columns, spans, streamed=whole)


def _refuse_whole(first: bytes) -> None:
    """Refuses a file that is JSON, but not one object on each line. A part of it may look like an object.

    Args:
        first: its first line that is not blank.

    Raises:
        SourceError: it is a list, or its first object takes several lines.
    """
    start = first.removeprefix(lines.MARK).strip()
    if start == b"[" or (start.startswith(b"[") and b"{" in start[:SHOWN]):
        raise SourceError(
            "is one list of JSON", got=_shown(start), hint="write an object a line, as by: jq -c '.[]' FILE"
        )
    if start == b"{":
        raise SourceError(
            "has JSON objects that take several lines",
            got=_shown(start),
            hint="write an object a line, as by: jq -c . FILE",
        )


def _shown(start: bytes) -> str:
    return strip_control(start[:SHOWN].decode(errors="replace"))


def read(
    file: pa.NativeFile, pieces: Sequence[Piece], source: Source, columns: pa.Schema
) -> Iterator[RawRows]:
    """Yields the objects of each piece."""
    for found in lines.read(file, pieces, compression(pieces[0].file, source), source):
        yield _parsed(found, source, columns)


def _parsed(found: lines.Lines, source: Source, columns: pa.Schema) -> RawRows:
    """Parses a few lines at a time: as Python objects they take many times their bytes."""
    starts = range(0, max(1, len(found.texts)), BLOCK_ROWS)
    blocks = [_table(found.texts.slice(start, BLOCK_ROWS), source, columns) for start in starts]
    return RawRows.of(pa.concat_tables(blocks), found.positions, found.start, found.stop)


def _table(lines_N: pa.Array, source: Source, columns: pa.Schema) -> pa.Table:
    """Makes the table that `RawRows.of` takes."""
    texts: list[str | None] = []
    faults: list[str] = []
    kinds = {name: columns.field(name).type for name in source.fields if name in columns.names}
    cells: dict[str, list[Any]] = {name: [] for name in kinds}
    for line in _binary(lines_N):
        content, fault = _object(line, source.encoding_errors)
        text = _at(content, source.text_column)
        texts.append(text if isinstance(text, str) else None)
        faults.append(fault or ("" if isinstance(text, str | None) else "not_text"))
        for name, kind in kinds.items():
            cells[name].append(_cell(_at(content, source.fields[name]), kind))
    carried = {}
    for name, kind in kinds.items():
        carried[name], misfits = column_of(cells[name], kind)
        _fault(faults, "carried_type", misfits)
    arrays = [strings_of(texts), pa.array(faults, pa.string()), *carried.values()]
    return pa.Table.from_arrays(arrays, names=["", "", *carried])


def _cell(value: Any, kind: pa.DataType) -> Any:
    """Returns a value as a column takes it; a nested one becomes JSON, or does not fit."""
    if isinstance(value, Fraction) and not pa.types.is_string(kind):
        return value.number if math.isfinite(value.number) else MISFIT
    if not isinstance(value, dict | list):
        return value
    try:
        return text_of(value) if pa.types.is_string(kind) else MISFIT
    except RecursionError:
        return MISFIT


def _binary(texts: pa.Array) -> list[bytes]:
    found: list[bytes] = texts.cast(pa.large_binary()).to_pylist()
    return found


def _fault(faults: list[str], fault: str, rows: Sequence[int]) -> None:
    for row in rows:
        faults[row] = faults[row] or fault


def _object(line: bytes, errors: str) -> tuple[Any, str]:
    """Parses a line. Returns its object and "", or None and the reason why it can't be read."""
    if not line.strip():
        return None, "blank"
    if len(line) > bounds.MAX_VALUES < sum(map(line.count, STRUCTURE)):
        return None, "too_long"
    try:
        text = line.removeprefix(lines.MARK).decode(errors="replace" if errors == "replace" else "strict")
        content = DECODER.decode(text)
    except UnicodeDecodeError:
        return None, "invalid_utf8"
    except (ValueError, RecursionError):
        return None, "invalid_json"
    return (content, "") if isinstance(content, dict) else (None, "invalid_json")


def _at(content: Any, path: str | None, missing: Any = None) -> Any:
    """Returns the value of an object at a dotted path; the path may also be a single key."""
    if isinstance(content, dict) and path in content:
        return content[path]
    for key in (path or "").split("."):
        if not isinstance(content, dict) or key not in content:
            return missing
        content = content[key]
    return content


def _sampled(found: Sequence[bytes], source: Source) -> Iterator[Outline]:
    for line in found[:SAMPLED_ROWS]:
        if len(line) > memory.SMALL:
            memory.take_turn()
        content, fault = _object(line, "replace")
        if not fault:
            yield _outline(content, source)


def _outline(content: Any, source: Source) -> Outline:
    paths = {"": source.text_column, **source.fields}
    cells = {name: _at(content, path, MISSING) for name, path in paths.items()}
    # A nested value is a string in the shards, whatever it holds.
    scalars = {name: "" if isinstance(cell, str | dict | list) else cell for name, cell in cells.items()}
    return list(content)[:MAX_NAMES], scalars


def _columns(objects: Sequence[Outline], source: Source) -> pa.Schema:
    if not objects:
        raise SourceError("holds no JSON objects, one on each line", hint="check the format")
    if all(cells[""] is MISSING for _, cells in objects):
        names = named(list(dict.fromkeys(name for names, _ in objects[:20] for name in names)))
        raise SourceError(
            "has no such column", got=f"{source.text_column!r} among {names}", hint="check text_column"
        )
    found = {
        name: [cells[name] for _, cells in objects if cells[name] is not MISSING] for name in source.fields
    }
    return pa.schema([pa.field(name, _type(cells)) for name, cells in found.items() if cells])


def _type(cells: Sequence[Any]) -> pa.DataType:
    """Infers the type of a column from samples."""
    kinds = {float if isinstance(cell, Fraction) else type(cell) for cell in cells if cell is not None}
    if not kinds:
        return pa.null()
    if kinds == {bool}:
        return pa.bool_()
    if any(isinstance(cell, int) and not -(2**63) <= cell < 2**63 for cell in cells):
        return pa.string()  # a float would not be the same number
    if any(isinstance(cell, Fraction) and not cell.fits for cell in cells):
        return pa.string()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()


FORMAT = Format(survey, read, types_inferred=True)
