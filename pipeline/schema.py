"""The only definition of column names and Arrow schemas.

All types can be read by Spark, DuckDB, Polars and pyarrow (docs/format.md).
"""

import json
import zoneinfo
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

FORMAT_VERSION = 1
RECORD_KEY = b"pipeline.record"
"""The key of the shard record in a shard's Parquet footer."""
LABELS_KEY = b"pipeline.labels"
"""The key of the outputs' labels in a shard's Parquet footer: a JSON object, from an output to its labels."""

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
        # Only of the data files of tables: how the columns are read, and rows that the table no longer has.
        pa.field("table", pa.string()),
        pa.field("deleted_rows", pa.int64()),
        pa.field("deleted", pa.string()),
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

TEXT_PAIR = pa.struct([pa.field("first", pa.large_string()), pa.field("second", pa.large_string())])
"""The type of documents that are pairs of texts; other documents are large strings."""

LABEL = pa.struct(
    [
        pa.field("output", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)
"""The number of rows that an output gave a label."""

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


def parts_of(texts: pa.Array) -> list[pa.Array]:
    """Returns the texts of documents: one array, or the first and the second texts of pairs."""
    return texts.flatten() if pa.types.is_struct(texts.type) else [texts]


def plain(texts: pa.Array) -> list[str]:
    """Returns documents as strings; the second text of a pair follows the first."""
    found: list[str] = pc.binary_join_element_wise(
        *parts_of(texts), pa.scalar(" ", pa.large_string())
    ).to_pylist()
    return found


def text_bytes(texts: pa.Array) -> int:
    """Returns the bytes of all texts of documents."""
    return sum(pc.sum(pc.binary_length(part)).as_py() or 0 for part in parts_of(texts))


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

    Timestamps become microseconds, and an offset instead of a zone becomes UTC: the instants stay. A type
    that a reader refuses becomes the next wider one that all of them take.

    Raises:
        pa.ArrowNotImplementedError: no such type exists.
    """
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return readable_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return readable_type(kind.value_type)
    if any(matches(kind) for matches in _LISTS):
        return pa.list_(readable_type(kind.value_type))
    if types.is_struct(kind) and kind.num_fields:
        _refuse_alike([each.name for each in kind])
        # The fields' metadata is dropped: it may name an extension type that is unknown here.
        return pa.struct([pa.field(each.name, readable_type(each.type), each.nullable) for each in kind])
    if types.is_map(kind):
        return pa.map_(_key_type(kind.key_type), readable_type(kind.item_type))
    if types.is_timestamp(kind):
        return pa.timestamp("us", readable_zone(kind.tz))
    for matches, replacement in _READABLE:
        if matches(kind):
            return replacement
    if any(matches(kind) for matches in _UNREADABLE):
        raise pa.ArrowNotImplementedError(f"{kind} can't be read by Spark")
    return kind


def readable_zone(zone: str | None) -> str | None:
    """Returns a zone under a name that every reader knows: `Area/City`, or else UTC; None for none."""
    known = zone and "/" in zone and zone in zoneinfo.available_timezones()
    return zone if zone is None or known else UTC


def joined_type(one: Any, other: Any) -> Any:
    """Returns the type that holds the values of two readable types without loss (pyarrow DataTypes).

    Instants in two zones become UTC.

    Raises:
        pa.ArrowException: no such type exists.
    """
    one, other = _towards(one, other), _towards(other, one)
    both = [pa.schema([pa.field("", each)]) for each in (one, other)]
    joined = pa.unify_schemas(both, promote_options="permissive").field(0).type
    for each in (one, other):
        if loses_digits(each, joined):
            raise pa.ArrowTypeError(f"{one} and {other} have no type in common that keeps all digits")
    return readable_type(joined)


def loses_digits(kind: Any, target: Any) -> bool:
    """Tells whether a cast makes floating-point numbers of decimals, at any depth."""
    types = pa.types
    if types.is_decimal(kind):
        return bool(types.is_floating(target))
    if types.is_struct(kind) and types.is_struct(target):
        at = {field.name: field.type for field in target}
        return any(loses_digits(field.type, at[field.name]) for field in kind if field.name in at)
    return any(loses_digits(*pair) for pair in zip(_inner(kind), _inner(target), strict=False))


def without_nulls(kind: Any) -> Any:
    """Returns a type with strings in the places of Arrow's type for nothing but nulls, at any depth."""
    types = pa.types
    if types.is_null(kind):
        return pa.string()
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(without_nulls(kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([each.with_type(without_nulls(each.type)) for each in kind])
    if types.is_map(kind):
        return pa.map_(kind.key_type, without_nulls(kind.item_type))
    return kind


def _inner(kind: Any) -> list[Any]:
    """Returns the types that a list or a map is made of."""
    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    return [kind.value_type] if pa.types.is_list(kind) else []


def _towards(kind: Any, other: Any) -> Any:
    """Returns a type with what Arrow itself does not do to join it with another type.

    UTC takes the place of each zone that differs from the other type's zone there, and a decimal that of each
    integer where the other type is a decimal: Arrow would take one that lacks a digit.
    """
    types = pa.types
    if types.is_integer(kind) and types.is_decimal(other):
        return pa.decimal128(DIGITS[kind.bit_width], 0)
    if types.is_timestamp(kind) and types.is_timestamp(other):
        both = kind.tz is not None and other.tz is not None
        return pa.timestamp(kind.unit, UTC) if both and kind.tz != other.tz else kind
    if types.is_list(kind) and types.is_list(other):
        return pa.list_(kind.value_field.with_type(_towards(kind.value_type, other.value_type)))
    if types.is_map(kind) and types.is_map(other):
        return pa.map_(_towards(kind.key_type, other.key_type), _towards(kind.item_type, other.item_type))
    if types.is_struct(kind) and types.is_struct(other):
        at = {field.name: field.type for field in other}
        return pa.struct([f.with_type(_towards(f.type, at.get(f.name, f.type))) for f in kind])
    return kind


def _refuse_alike(names: Sequence[str]) -> None:
    """Refuses fields of a struct that Spark and DuckDB can't tell apart.

    Raises:
        pa.ArrowNotImplementedError: two names are the same but for their case.
    """
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            both = f"{seen[name.lower()]!r} and {name!r}"
            raise pa.ArrowNotImplementedError(f"a struct with {both} (case does not count)")
        seen[name.lower()] = name


def _key_type(kind: Any) -> Any:
    """Returns the readable type of a map's keys, which are never null."""
    found = readable_type(kind)
    if pa.types.is_null(found):
        raise pa.ArrowNotImplementedError("a map without keys can't be read by Spark")
    return found


def _is_empty_struct(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind)) and not kind.num_fields


UTC = "UTC"
DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}
"""The most decimal digits of an integer, by its bits; unsigned ones of 64 bits are decimals already."""
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
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
