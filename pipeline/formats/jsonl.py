"""JSON Lines: an object a line; cut like lines of text.

Carried columns have the types that samples show: 64-bit integers, floats, booleans; all else are strings, and
what is no string is then carried as JSON. A value that does not fit rejects its row.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.formats import lines
from pipeline.formats.compression import compression
from pipeline.formats.piece import Piece, Raw, Survey
from pipeline.formats.values import column_of, strings_of
from pipeline.sources import Source

SAMPLED_ROWS = 2000
BLOCK_ROWS = 4096
MISSING = object()


def survey(file: pa.NativeFile, name: str, size: int, source: Source) -> Survey:
    """How the file can be cut, and what its objects hold; see `lines`.

    Raises:
        SourceError: no line is an object, or none has the text column.
    """
    method = compression(name, source)
    if method:
        spans, first = lines.counted(file, size, method)
        sampled = [first]
    else:
        data = list(lines.samples(file, size))
        spans = lines.byte_span(size, data)
        sampled = [
            lines.split(np.frombuffer(each, np.uint8), first=not at)[0] for at, each in enumerate(data)
        ]
    objects = [found for texts in sampled for found in _sampled(texts)]
    if not objects and not method and spans:  # no line is as short as a sample
        content, fault = _object(lines.first_line(file), "replace")
        objects = [] if fault else [content]
    lines_of = (texts.cast(pa.large_binary()).to_pylist() for texts in sampled)
    blank = not objects and not any(line.strip() for found in lines_of for line in found)
    columns = pa.schema([]) if blank else _columns(objects, source)
    return Survey("rows" if method else "bytes", columns, spans, streamed=bool(method), loose=True)


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, columns: pa.Schema) -> Iterator[Raw]:
    """The objects of each piece."""
    for found in lines.read(file, pieces, compression(pieces[0].file, source)):
        yield _parsed(found, source, columns)


def _parsed(found: lines.Lines, source: Source, columns: pa.Schema) -> Raw:
    """A few lines at a time: as Python's objects they take many times their bytes."""
    starts = range(0, max(1, len(found.texts)), BLOCK_ROWS)
    blocks = [_table(found.texts.slice(start, BLOCK_ROWS), source, columns) for start in starts]
    return Raw.of(pa.concat_tables(blocks), found.positions, found.start, found.stop)


def _table(lines_N: pa.Array, source: Source, columns: pa.Schema) -> pa.Table:
    """As `Raw.of` takes it."""
    parsed = [_object(line, source.encoding_errors) for line in lines_N.cast(pa.large_binary()).to_pylist()]
    objects, faults = [content for content, _ in parsed], [fault for _, fault in parsed]
    cells = [_at(content, source.text_column) for content in objects]
    texts = strings_of([cell if isinstance(cell, str) else None for cell in cells])
    _fault(faults, "not_text", [at for at, cell in enumerate(cells) if not isinstance(cell, str | None)])
    carried = {}
    for name, path in source.fields.items():
        if name not in columns.names:
            continue
        cells = [_at(content, path) for content in objects]
        carried[name], misfits = column_of(cells, columns.field(name).type)
        _fault(faults, "carried_type", misfits)
    arrays = [texts, pa.array(faults, pa.string()), *carried.values()]
    return pa.Table.from_arrays(arrays, names=["", "", *carried])


def _fault(faults: list[str], fault: str, rows: Sequence[int]) -> None:
    for row in rows:
        faults[row] = faults[row] or fault


def _object(line: bytes, errors: str) -> tuple[Any, str]:
    """What a line holds, and why it can't be read, if it can't."""
    if not line.strip():
        return None, "blank"
    try:
        content = json.loads(line.decode(errors="replace" if errors == "replace" else "strict"))
    except UnicodeDecodeError:
        return None, "invalid_utf8"
    except (ValueError, RecursionError):
        return None, "invalid_json"
    return (content, "") if isinstance(content, dict) else (None, "invalid_json")


def _at(content: Any, path: str | None, missing: Any = None) -> Any:
    """What an object holds under a dotted path; the whole path may also be one key."""
    if isinstance(content, dict) and path in content:
        return content[path]
    for key in (path or "").split("."):
        if not isinstance(content, dict) or key not in content:
            return missing
        content = content[key]
    return content


def _sampled(texts: pa.Array) -> Iterator[Any]:
    for line in texts.slice(0, SAMPLED_ROWS).cast(pa.large_binary()).to_pylist():
        content, fault = _object(line, "replace")
        if not fault:
            yield content


def _columns(objects: Sequence[Any], source: Source) -> pa.Schema:
    if not objects:
        raise SourceError("holds no JSON objects, a line each", hint="check the format")
    if all(_at(content, source.text_column, MISSING) is MISSING for content in objects):
        names = ", ".join(dict.fromkeys(key for content in objects[:20] for key in content))
        raise SourceError(
            "has no such column", got=f"{source.text_column!r} among {names}", hint="check text_column"
        )
    found = {
        name: [cell for content in objects if (cell := _at(content, path, MISSING)) is not MISSING]
        for name, path in source.fields.items()
    }
    return pa.schema([pa.field(name, _type(cells)) for name, cells in found.items() if cells])


def _type(cells: Sequence[Any]) -> pa.DataType:
    """The type of a column that samples show."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if not kinds:
        return pa.null()
    if kinds == {bool}:
        return pa.bool_()
    if any(isinstance(cell, int) and not -(2**63) <= cell < 2**63 for cell in cells):
        return pa.string()  # a float would not be the same number
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()
