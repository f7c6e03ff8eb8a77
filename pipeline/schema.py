"""Column names and Arrow schemas; the only copy.

Types are those that Spark, DuckDB, Polars and pyarrow all read (docs/format.md).
"""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

FORMAT_VERSION = 1
RECORD_KEY = b"pipeline.record"
"""Key of the shard record in a shard's Parquet footer."""

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
"""What became of a piece: for rows the planned range; for bytes the range consumed, at line ends.

Of a piece with an error nothing was embedded, and its file is a failed one; the split's others are in the
shard.
"""

REASON = pa.struct(
    [pa.field("reason", pa.string(), nullable=False), pa.field("rows", pa.int64(), nullable=False)]
)
"""How many rows were rejected for one reason."""

TOKEN_BUCKETS = tuple(sorted({start << shift for start in (2, 3) for shift in range(24)} | {1}))
"""Upper bounds of the buckets of `token_histogram`, themselves inside: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""

CHUNK = pa.schema(
    [
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("char_start", pa.int32(), nullable=False),
        pa.field("char_stop", pa.int32(), nullable=False),
    ]
)
"""Of datasets with a row for each window of a text: which one, and its range of code points."""


def total(table: pa.Table, name: str) -> Any:
    """The sum of a column; 0 where there is nothing to sum."""
    return pc.sum(table.column(name)).as_py() or 0


def sum_by(keys: pa.ChunkedArray, values: pa.ChunkedArray) -> dict[str, int]:
    """The sum of the values of each key."""
    sums = pa.table({"key": keys, "value": values}).group_by("key").aggregate([("value", "sum")])
    return dict(zip(sums.column("key").to_pylist(), sums.column("value_sum").to_pylist(), strict=True))


def made_by(records: pa.Table, attempts: Sequence[str]) -> pa.Table:
    """The records of shards that these attempts made; a copied shard bears the name of an older dataset's."""
    return records.filter(pc.is_in(records.column("attempt"), pa.array(attempts, pa.string())))


def structs(lists: pa.ChunkedArray, kind: pa.DataType) -> pa.Table:
    """The structs in all rows' lists (`PIECE` or `REASON` of records), a row each."""
    return pa.Table.from_struct_array(pc.list_flatten(lists).combine_chunks().cast(kind))


def rows_schema(columns: pa.Schema, chunked: bool = False) -> pa.Schema:
    """A shard's schema without the outputs: what travels beside them."""
    return pa.schema([*columns, *SHARD_TAIL, *(CHUNK if chunked else ())])


def shard_schema(rows: pa.Schema, outputs: list[pa.Field]) -> pa.Schema:
    """A shard's schema: carried columns, the outputs, and our own columns.

    Args:
        rows: of `rows_schema`.  outputs: of `model.outputs.fields`.
    """
    at = rows.get_field_index(SHARD_TAIL.names[0])
    fields = list(rows)
    return pa.schema([*fields[:at], *outputs, *fields[at:]])


def columns_digest(columns: pa.Schema) -> str:
    """16 hex digits that tell a shard's schema: names, types, and whether nulls may be, in order."""
    return blake2b(json.dumps(_fields(columns)).encode(), digest_size=8).hexdigest()


def _fields(fields: Iterable[pa.Field]) -> list[Any]:
    return [[field.name, _told(field.type), field.nullable] for field in fields]


def _told(kind: Any) -> Any:
    """A type without what its lists call their items: Parquet calls them otherwise than Arrow."""
    types = pa.types
    if types.is_struct(kind):
        return _fields(kind)
    if types.is_map(kind):
        return ["map", _told(kind.key_type), _told(kind.item_type)]
    if types.is_fixed_size_list(kind):
        return ["list", kind.list_size, _told(kind.value_type)]
    return ["list", _told(kind.value_type)] if types.is_list(kind) else str(kind)


def readable_type(kind: Any) -> Any:
    """The nearest type that every reader takes (pyarrow DataType in and out).

    Timestamps become microseconds; what Spark can't read becomes the next wider thing that it can.

    Raises:
        pa.ArrowNotImplementedError: there is none.
    """
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return readable_type(kind.storage_type)
    if types.is_dictionary(kind):
        return readable_type(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(readable_type(kind.value_type))
    if types.is_struct(kind) and kind.num_fields:
        # Without their metadata, which may name an extension type that nobody here knows.
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
