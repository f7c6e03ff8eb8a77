"""The only definition of column names and Arrow schemas.

All types can be read by Spark, DuckDB, Polars and pyarrow (docs/format.md).
"""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

FORMAT_VERSION = 1
RECORD_KEY = b"pipeline.record"
"""The key of the shard record in a shard's Parquet footer."""

SHARD_TAIL = pa.schema(
    [
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("text_hash", pa.binary(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
    ]
)

REJECTS = pa.schema(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("permanent", pa.bool_(), nullable=False),
        pa.field("text", pa.string()),
    ]
)

PLAN = pa.schema(
    [
        # A row per piece of every split; a file without splits (empty, unreadable) has one row without ids.
        pa.field("split", pa.int64()),
        pa.field("split_id", pa.string()),
        pa.field("scan", pa.int64()),  # splits of one scan are read by one task, in one pass over their file
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("unit", pa.string()),
        pa.field("start", pa.int64()),
        pa.field("stop", pa.int64()),
        pa.field("stored_bytes", pa.int64()),  # what reading the piece should take from storage
        pa.field("error", pa.string()),
    ]
)

PIECE = pa.struct(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("rejects", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""The result of a piece. Its range of rows is the planned one; its range of bytes is what was consumed.

A range of bytes ends at line ends. If a piece has an error, nothing of it was embedded, and its file is a
failed file. The split's other pieces are in the shard.
"""

REASON = pa.struct(
    [pa.field("reason", pa.string(), nullable=False), pa.field("rows", pa.int64(), nullable=False)]
)
"""The number of rows that were rejected for one reason."""

TOKEN_BUCKETS = tuple(sorted({start << shift for start in (2, 3) for shift in range(24)} | {1}))
"""Inclusive upper bounds of the buckets of `token_histogram`: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""

CHUNK = pa.schema(
    [
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("char_start", pa.int32(), nullable=False),
        pa.field("char_stop", pa.int32(), nullable=False),
    ]
)
"""Columns of datasets with a row for each window of a text: the window, and its range of code points."""


def total(table: pa.Table, name: str) -> Any:
    """Returns the sum of a column; 0 if there is nothing to sum."""
    return pc.sum(table.column(name)).as_py() or 0


def sum_by(keys: pa.ChunkedArray, values: pa.ChunkedArray) -> dict[str, int]:
    """Returns the sum of the values of each key."""
    sums = pa.table({"key": keys, "value": values}).group_by("key").aggregate([("value", "sum")])
    return dict(zip(sums.column("key").to_pylist(), sums.column("value_sum").to_pylist(), strict=True))


def made_by(records: pa.Table, attempts: Sequence[str]) -> pa.Table:
    """Returns the records of shards that these attempts made; a copied shard names an older attempt."""
    return records.filter(pc.is_in(records.column("attempt"), pa.array(attempts, pa.string())))


def structs(lists: pa.ChunkedArray, kind: pa.DataType) -> pa.Table:
    """Returns the structs in all rows' lists (`PIECE` or `REASON` of records), one per row."""
    return pa.Table.from_struct_array(pc.list_flatten(lists).combine_chunks().cast(kind))


def rows_schema(columns: pa.Schema, chunked: bool = False) -> pa.Schema:
    """Returns a shard's schema without the outputs: the schema of the rows that travel beside them."""
    return pa.schema([*columns, *SHARD_TAIL, *(CHUNK if chunked else ())])


def shard_schema(rows: pa.Schema, outputs: list[pa.Field]) -> pa.Schema:
    """Returns a shard's schema: carried columns, the outputs, and our own columns.

    Args:
        rows: the result of `rows_schema`.  outputs: the result of `model.outputs.fields`.
    """
    at = rows.get_field_index(SHARD_TAIL.names[0])
    fields = list(rows)
    return pa.schema([*fields[:at], *outputs, *fields[at:]])


def columns_digest(columns: pa.Schema) -> str:
    """Returns 16 hex digits that depend on a shard's names, types and nullability, in order."""
    return blake2b(json.dumps(_fields(columns)).encode(), digest_size=8).hexdigest()


def _fields(fields: Iterable[pa.Field]) -> list[Any]:
    return [[field.name, _told(field.type), field.nullable] for field in fields]


def _told(kind: Any) -> Any:
    """Describes a type without the names of list items: Parquet and Arrow name them differently."""
    types = pa.types
    if types.is_struct(kind):
        return _fields(kind)
    if types.is_map(kind):
        return ["map", _told(kind.key_type), _told(kind.item_type)]
    if types.is_fixed_size_list(kind):
        return ["list", kind.list_size, _told(kind.value_type)]
    return ["list", _told(kind.value_type)] if types.is_list(kind) else str(kind)


def readable_type(kind: Any) -> Any:
    """Returns the nearest type that every reader accepts (pyarrow DataType in and out).

    Timestamps become microseconds; a type that Spark can't read becomes the next wider one that it can.

    Raises:
        pa.ArrowNotImplementedError: no such type exists.
    """
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return readable_type(kind.storage_type)
    if types.is_dictionary(kind):
        return readable_type(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(readable_type(kind.value_type))
    if types.is_struct(kind) and kind.num_fields:
        # The fields' metadata is dropped: it may name an extension type that is unknown here.
        return pa.struct([pa.field(each.name, readable_type(each.type), each.nullable) for each in kind])
    if types.is_map(kind):
        return pa.map_(readable_type(kind.key_type), readable_type(kind.item_type))
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    for matches, replacement in _READABLE:
        if matches(kind):
            return replacement
    if any(matches(kind) for matches in _UNREADABLE):
        raise pa.ArrowNotImplementedError(f"{kind} can't be read by Spark")
    return kind


def _is_empty_struct(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind)) and not kind.num_fields


_UNREADABLE = (pa.types.is_interval, pa.types.is_union, pa.types.is_decimal256, _is_empty_struct)
_READABLE = (
    (pa.types.is_large_string, pa.string()),
    (pa.types.is_string_view, pa.string()),
    (pa.types.is_time, pa.string()),
    (pa.types.is_large_binary, pa.binary()),
    (pa.types.is_binary_view, pa.binary()),
    (pa.types.is_fixed_size_binary, pa.binary()),
    (pa.types.is_uint64, pa.decimal128(20, 0)),
    (pa.types.is_float16, pa.float32()),
    (pa.types.is_date64, pa.date32()),
    (pa.types.is_duration, pa.int64()),
)
