"""Reads the data files of tables: Parquet, with what the table says about columns and deleted rows.

The survey finds each column in its file by the table's rules (field ids or names). The result travels in the
plan as one packed row of Arrow: a column of it has the type that the table gives it, the path in the file as
metadata, and the value that stands for it if the file does not hold it.
"""

import base64
import binascii
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline import parsing
from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.schema import readable_type
from pipeline.source.deleted import unpack
from pipeline.source.formats import parquet
from pipeline.source.formats.parquet_columns import is_text, told_schema, type_at
from pipeline.source.piece import Piece, RawRows, Survey
from pipeline.source.tables.deletions import deleted_rows
from pipeline.source.tables.snapshot import Column, DataFile, Step, children, field_id

PATH = b"path"
MOST_BYTES = 4 << 20
"""The most bytes of the packed row of a file."""


def survey(file: pa.NativeFile, info: DataFile, source: Source) -> Survey:
    """Finds how a data file can be cut, where its columns are, and which of its rows are deleted.

    Raises:
        SourceError: it can't be read as the table says.
        StorageError: storage failed.
    """
    footer = parquet.open_footer(file, info.size)
    schema = told_schema(footer, source)
    fields, values = [], []
    for column in info.columns:
        path = _path(schema, column)
        if path and not column.name and not is_text(type_at(schema, path)):
            got = str(type_at(schema, path))
            raise SourceError(f"column {path!r} is not text", got=got, hint="check the table's files")
        kind = readable_type(column.field.type)
        fields.append(pa.field(column.name, kind, metadata={PATH: path} if path else None))
        values.append(_constant(info, column, kind, absent=path is None))
    paths = [field.metadata[PATH].decode() for field in fields if field.metadata]
    row = pa.record_batch(values, schema=pa.schema(fields))
    rows = footer.metadata.num_rows
    deleted = pa.array(deleted_rows(info.deletions, source.options, rows))
    spans = parquet.spans_of(footer, paths, info.size)
    return Survey("rows", pa.schema(fields[1:]).remove_metadata(), spans, table=_pack(row), deleted=deleted)


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, _: pa.Schema) -> Iterator[RawRows]:
    """Yields the rows of each piece that the table still has, with their positions in the file.

    Raises:
        SourceError: the file is damaged.
    """
    row = _unpack(pieces[0].table)
    row = row.select(["", *(name for name in row.schema.names[1:] if name in source.fields)])
    opened = parquet.open_to_read(file, pieces[0].size)
    told = told_schema(opened, source)
    (text, *paths), names = [_told_path(field) for field in row.schema], row.schema.names[1:]
    there = [(name, path) for name, path in zip(names, paths, strict=True) if path]
    kinds = pa.schema([pa.field(name, readable_type(type_at(told, path))) for name, path in there])
    raws = parquet.read_columns(opened, pieces, text, [path for _, path in there], kinds)
    for piece, raw in zip(pieces, raws, strict=True):
        yield _without_deleted(_as_table(raw, row, bool(text)), piece)


FORMAT = replace(parquet.FORMAT, read=read)
"""The survey needs more of a file than its name and its size: `formats.survey` calls the one above."""


def _path(schema: pa.Schema, column: Column) -> str | None:
    """Returns the dotted path of a column in a file; None if the file does not have it.

    Raises:
        SourceError: the file has it twice, or in another shape.
    """
    found: list[pa.Field] = []
    inner: pa.Schema | pa.DataType = schema
    for step in column.steps:
        field = _at(list(children(inner)), step)
        if field is None:
            return None
        found.append(field)
        inner = field.type
    if not found:
        return None
    if schema.names.count(found[0].name) > 1:
        raise SourceError("has a column twice", got=repr(found[0].name), hint="rename one of them")
    if not _same_shape(found[-1], column.field):
        raise SourceError(
            f"column {column.field.name!r} has other fields inside than the table now has",
            got=f"{found[-1].type}, not {column.field.type}",
            hint="carry its fields one by one, by dotted paths",
        )
    return ".".join(field.name for field in found)


def _at(fields: Sequence[pa.Field], step: Step) -> pa.Field | None:
    """Returns the field that a step leads to. A file without field ids goes by names."""
    ids = {field_id(field): field for field in fields}
    if step.field_id is not None and ids.keys() - {None}:
        return ids.get(step.field_id)
    return next((field for field in fields if field.name in step.names), None)


def _same_shape(one: pa.Field, other: pa.Field) -> bool:
    """Tells whether two fields have the same names, and no other ids, in all structs inside them."""
    pairs = list(zip(_inside(one.type), _inside(other.type), strict=False))
    if len(pairs) != len(_inside(one.type)) or len(pairs) != len(_inside(other.type)):
        return False
    is_struct = pa.types.is_struct(one.type)
    for mine, theirs in pairs:
        both = field_id(mine), field_id(theirs)
        if (is_struct and mine.name != theirs.name) or (None not in both and both[0] != both[1]):
            return False
    return all(_same_shape(*pair) for pair in pairs)


def _inside(kind: pa.DataType) -> list[pa.Field]:
    """Returns the fields that a type is made of."""
    if pa.types.is_map(kind):
        return [kind.key_field, kind.item_field]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [kind.value_field]
    return list(children(kind))


def _constant(info: DataFile, column: Column, kind: pa.DataType, absent: bool) -> pa.Array:
    """Returns the value that stands for a column which a file does not hold; null if it does."""
    value = info.constants.get(column.name) if absent else None
    if value is None or not value.is_valid:
        return pa.nulls(1, kind)
    return pa.array([value.as_py()], value.type).cast(kind)


def _as_table(raw: RawRows, row: pa.RecordBatch, has_text: bool) -> RawRows:
    """Adds the columns that the file does not hold, in the order of the packed row."""
    count = len(raw.positions)
    texts = raw.texts if has_text else _repeat(row.column(0), count).cast(pa.large_string())
    columns = {
        name: raw.columns.column(name) if name in raw.columns.column_names else _repeat(value, count)
        for name, value in zip(row.schema.names[1:], row.columns[1:], strict=True)
    }
    return replace(raw, texts=texts, columns=pa.table(columns))


def _repeat(value: pa.Array, count: int) -> pa.Array:
    return value.take(pa.array(np.zeros(count, np.int64)))


def _without_deleted(raw: RawRows, piece: Piece) -> RawRows:
    deleted = unpack(piece.deleted, piece.deleted_rows)
    if not len(deleted):
        return raw
    kept = pa.array(np.isin(raw.positions.to_numpy(), deleted, invert=True))
    columns = raw.columns.filter(kept) if raw.columns.num_columns else raw.columns
    faults = None if raw.faults is None else raw.faults.filter(kept)
    texts, positions = raw.texts.filter(kept), raw.positions.filter(kept)
    return replace(raw, texts=texts, columns=columns, positions=positions, faults=faults)


def _told_path(field: pa.Field) -> str | None:
    path = (field.metadata or {}).get(PATH)
    return path.decode() if path else None


def _pack(row: pa.RecordBatch) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as stream:
        stream.write_batch(row)
    return base64.b64encode(zlib.compress(sink.getvalue())).decode()


def _unpack(text: str) -> pa.RecordBatch:
    """Unpacks the row of a file.

    Raises:
        SourceError: it is damaged.
    """
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text), MOST_BYTES)
        with pa.ipc.open_stream(data) as stream:
            row = stream.read_next_batch()
            row.validate(full=True)
            parsing.refuse_extensions(row.schema)
            return row
    except (binascii.Error, zlib.error, pa.ArrowException, OSError, StopIteration, TypeError) as error:
        hint = "plan.parquet is damaged: make a new dataset"
        raise SourceError("the plan does not say how it is read", got=str(error), hint=hint) from None
