"""The columns of a Parquet file: which type each has by the file's own annotations, and how it is carried.

Arrow's types are not all that a file says. Arrow reads ENUM and INTERVAL as bytes and Spark's INT96, an
instant, as a time without a zone; and its casts of `list_view` lose values. All of this is put right here.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.schema import UTC, readable_type
from pipeline.source.formats.compression import first_line

Matches = Callable[[pa.DataType], bool]
TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
BINARY_TYPES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
TEXT_ANNOTATIONS = ("ENUM", "JSON", "STRING")
VIEWS = (pa.types.is_list_view, pa.types.is_large_list_view)
FIRST_DAY, FIRST_TIME = datetime.date(1582, 10, 15), datetime.datetime(1900, 1, 1)
"""The first day of the Gregorian calendar; and the time from which on old Spark knew how zones differ."""
LEGACY_DAYS = (b"org.apache.spark.legacyDateTime", b"org.apache.spark.legacyINT96")
SPARK_VERSION, PROLEPTIC = b"org.apache.spark.version", b"writer.date.proleptic"
"""Keys in the footers of Spark and of Hive."""
DURATIONS, TIMES = (pa.types.is_duration,), (pa.types.is_time,)
DATES = (*TIMES, pa.types.is_date, pa.types.is_timestamp)
DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
"""A day in the units of times."""
LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, *VIEWS)


def told_schema(parquet: pq.ParquetFile, source: Source) -> pa.Schema:
    """Returns the schema of a file with the types that its annotations, or the config, say."""
    leaves = iter([parquet.metadata.schema.column(at) for at in range(parquet.metadata.num_columns)])
    fields = [field.with_type(_told(field.type, leaves, source)) for field in parquet.schema_arrow]
    return pa.schema(fields)


def type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """Returns the type at a dotted path, which may also be a single name; None if nothing is there."""
    if path in schema.names:
        return schema.field(path).type
    name, *inner = path.split(".")
    kind = schema.field(name).type if name in schema.names else None
    for key in inner:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def value_at(table: pa.Table, path: str) -> pa.ChunkedArray:
    """Returns the column at a dotted path."""
    if path in table.column_names:
        return table.column(path)
    name, *inner = path.split(".")
    return pc.struct_field(table.column(name), inner)


def is_text(kind: pa.DataType | None) -> bool:
    """Tells whether a column of a type can be embedded; one of nothing but nulls has a type of its own."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    kind = kind.value_type if kind and pa.types.is_dictionary(kind) else kind
    return kind is not None and any(matches(kind) for matches in TEXT_TYPES)


def is_binary(kind: pa.DataType) -> bool:
    """Tells whether a column of a type holds bytes, which may be text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(matches(kind) for matches in BINARY_TYPES)


def texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column of text as large strings, which may be invalid UTF-8."""
    return _cast(_storage(column), pa.large_string())


def readable_columns(schema: pa.Schema, source: Source) -> pa.Schema:
    """Returns the id and carried columns that a file has, by the shards' names, in readable types.

    Raises:
        SourceError: a type can't be carried.
    """
    fields = []
    for name, path in source.fields.items():
        if kind := type_at(schema, path):
            try:
                fields.append(pa.field(name, readable_type(kind)))
            except pa.ArrowNotImplementedError as error:
                raise SourceError(
                    f"column {path!r} has a type that some readers refuse",
                    got=str(error),
                    hint="do not carry it",
                ) from None
    return pa.schema(fields)


def readable(
    column: pa.ChunkedArray, field: pa.Field, old_days: bool = False
) -> tuple[pa.ChunkedArray, list[int]]:
    """Casts a carried column to its readable type. Only nanoseconds of timestamps and durations are lost.

    A value that does not fit becomes null. Returns the numbers of the rows with such values, too.

    Args:
        old_days: True if days before `FIRST_DAY` are those of another calendar, and so do not fit.

    Raises:
        SourceError: no value of its type can be cast.
    """
    try:
        parts = list(_fitting(column, field.type, old_days))
    except MemoryError:
        raise
    except pa.ArrowException as error:
        raise SourceError(
            f"column {field.name!r} can't be carried", got=first_line(error), hint="do not carry it"
        ) from None
    stops = np.cumsum([len(part) for part, _ in parts])
    misfits = [int(stop) - 1 for stop, (_, fits) in zip(stops, parts, strict=True) if not fits]
    chunks = [chunk for part, _ in parts for chunk in part.chunks]
    return pa.chunked_array(chunks, field.type), misfits


def has_old_days(metadata: pq.FileMetaData) -> bool:
    """Tells whether a writer, old Spark or Hive, counted early days by the Julian calendar."""
    told = metadata.metadata or {}
    if any(key in told for key in LEGACY_DAYS) or told.get(PROLEPTIC) == b"false":
        return True
    return bool(told.get(SPARK_VERSION, b"").startswith((b"1.", b"2.")))


def _fitting(
    column: pa.ChunkedArray, kind: pa.DataType, old_days: bool
) -> Iterator[tuple[pa.ChunkedArray, bool]]:
    """Yields a column in parts, cast to a type, each with whether it fits. One that does not is a null."""
    try:
        if _has(column.type, DATES if old_days else TIMES):
            for leaf in _leaves(column.combine_chunks()):
                _check(leaf, old_days)
        yield _readable(column, kind), True
    except pa.ArrowInvalid:
        if len(column) == 1:
            yield pa.chunked_array([pa.nulls(1, kind)]), False
            return
        half = len(column) // 2
        for rows in (range(half), range(half, len(column))):
            # `take`, because a cast of a slice may look at all values of the column that it was sliced from.
            yield from _fitting(column.take(pa.array(rows, pa.int64())), kind, old_days)


def _readable(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if _has(column.type, VIEWS):
        column = pa.chunked_array([_without_views(chunk) for chunk in column.chunks])
    column = _storage(column)
    if _has(column.type, DURATIONS):
        # Files differ in their units, which an integer does not tell.
        column = _cast(column, _in_microseconds(column.type))
    return _cast(column, kind)


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    """Yields the innermost values of an array."""
    if isinstance(array.type, pa.BaseExtensionType):
        yield from _leaves(array.storage)
    elif pa.types.is_map(array.type):
        for each in _entries(array):
            yield from _leaves(each)
    elif pa.types.is_struct(array.type):
        for each in array.flatten():
            yield from _leaves(each)
    elif any(matches(array.type) for matches in LISTS):
        yield from _leaves(array.flatten())
    else:
        yield array


def _check(array: pa.Array, old_days: bool) -> None:
    """Checks values that a cast would turn into others.

    Raises:
        pa.ArrowInvalid: there is a time of day that no clock shows, or a day of the Julian calendar.
    """
    types = pa.types
    if types.is_time(array.type):
        ticks = pc.cast(array, pa.int32() if types.is_time32(array.type) else pa.int64()).cast(pa.int64())
        if pc.any(pc.or_(pc.less(ticks, 0), pc.greater_equal(ticks, DAY[array.type.unit]))).as_py():
            raise pa.ArrowInvalid("a time of day beyond 24 hours")
    elif old_days and (types.is_date(array.type) or types.is_timestamp(array.type)):
        first = FIRST_DAY if types.is_date(array.type) else FIRST_TIME
        if pc.any(pc.less(array, pa.scalar(first, array.type))).as_py():
            raise pa.ArrowInvalid("a day of the Julian calendar")


def _told(kind: pa.DataType, leaves: Iterator[pq.ColumnSchema], source: Source) -> pa.DataType:
    """Returns an Arrow type as the annotations of the next leaves, of which it is made, describe it."""
    types = pa.types
    if types.is_struct(kind):
        return pa.struct([each.with_type(_told(each.type, leaves, source)) for each in kind])
    if types.is_map(kind):
        key = _told(kind.key_type, leaves, source)
        return pa.map_(key, kind.item_field.with_type(_told(kind.item_type, leaves, source)))
    if any(matches(kind) for matches in LISTS):
        return pa.list_(kind.value_field.with_type(_told(kind.value_type, leaves, source)))
    if isinstance(kind, pa.BaseExtensionType):
        _told(kind.storage_type, leaves, source)  # it passes over the leaves
        return kind
    leaf = next(leaves)
    if leaf.converted_type == "INTERVAL":
        return pa.month_day_nano_interval()
    if leaf.physical_type == "INT96" and types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz or UTC)
    if is_binary(kind) and _holds_text(leaf, source):
        return pa.string()
    return kind


def _holds_text(leaf: pq.ColumnSchema, source: Source) -> bool:
    annotation = leaf.logical_type.type
    return annotation in TEXT_ANNOTATIONS or (source.binary_as_string and annotation in ("NONE", "UNDEFINED"))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    # Rows with strings that are not UTF-8 are rejected later, one by one.
    return column.cast(
        options=pc.CastOptions(target_type=kind, allow_time_truncate=True, allow_invalid_utf8=True)
    )


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the storage values of an extension type (uuid, json, ...)."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def _has(kind: pa.DataType, wanted: Sequence[Matches]) -> bool:
    """Tells whether a type is one of the wanted types, or has one inside."""
    if isinstance(kind, pa.BaseExtensionType):
        return _has(kind.storage_type, wanted)
    return any(matches(kind) for matches in wanted) or any(
        _has(kind.field(at).type, wanted) for at in range(kind.num_fields)
    )


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """Returns a type with microseconds as the unit of all durations, at any depth."""
    types = pa.types
    if types.is_duration(kind):
        return pa.duration("us")
    if types.is_struct(kind):
        return pa.struct([each.with_type(_in_microseconds(each.type)) for each in kind])
    if types.is_map(kind):
        return pa.map_(_in_microseconds(kind.key_type), _in_microseconds(kind.item_type))
    return pa.list_(_in_microseconds(kind.value_type)) if any(is_(kind) for is_ in LISTS) else kind


def _without_views(array: pa.Array) -> pa.Array:
    """Returns an array with lists in place of views of lists, at any depth."""
    types = pa.types
    if isinstance(array.type, pa.BaseExtensionType):
        return _without_views(array.storage)
    if not _has(array.type, VIEWS):
        return array
    if types.is_struct(array.type):
        children = [_without_views(child) for child in array.flatten()]
        fields = [
            each.with_type(child.type).with_nullable(True)
            for each, child in zip(array.type, children, strict=True)
        ]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())
    offsets, nulls = _offsets(array), array.is_null()
    if types.is_map(array.type):
        entries = [_without_views(child) for child in _entries(array)]
        return pa.MapArray.from_arrays(offsets, *entries, mask=nulls)
    return pa.ListArray.from_arrays(offsets, _without_views(array.flatten()), mask=nulls)


def _entries(maps: pa.MapArray) -> Sequence[pa.Array]:
    """Returns the keys and the values of all entries."""
    start, stop = maps.offsets[0].as_py(), maps.offsets[-1].as_py()
    return maps.keys.slice(start, stop - start), maps.items.slice(start, stop - start)


def _offsets(lists: pa.Array) -> pa.Array:
    """Returns the offsets of lists into their flattened values."""
    if pa.types.is_map(lists.type):
        lengths = np.diff(lists.offsets.to_numpy())
    else:
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
