"""Gives each field of a shard the number by which tables know it, in Parquet: its field id.

A dataset without predecessors has 1, 2, 3, ... in the order of its columns, then of what is nested in them. A
later dataset keeps the number of each field that has the same place and type. Any other field gets a number
that no dataset before it has used, also if a dropped field's number is free: tables remember it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.plan.plan import FieldIds

FIELD_ID = b"PARQUET:field_id"
"""The key under which Arrow keeps the field id of a column of Parquet."""
NO_IDS: FieldIds = {}


def field_ids(columns: pa.Schema, known: FieldIds = NO_IDS) -> FieldIds:
    """Returns the id of each field of a shard, and those of fields that only earlier datasets had.

    Args:
        known: the ids of the earlier datasets.
    """
    found = dict(known)
    last = max(found.values(), default=0)
    for place in _places(columns):
        if place not in found:
            last += 1
            found[place] = last
    return found


def with_field_ids(columns: pa.Schema, ids: FieldIds) -> pa.Schema:
    """Returns the schema of a shard with the id of each field in its metadata."""
    return pa.schema([_marked(each, (), ids) for each in columns])


def _places(fields: Iterable[pa.Field], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the place of each field: the names on the way to it, and its type."""
    fields = list(fields)
    for each in fields:
        yield _place(each, above)
    for each in fields:
        yield from _places(_inner(each.type), (*above, each.name))


def _place(field: pa.Field, above: tuple[str, ...]) -> tuple[str, ...]:
    return (*above, field.name, _kind(field.type))


def _kind(kind: Any) -> str:
    """Names a type; of what has fields of its own only the kind, since these have places of their own."""
    types = pa.types
    if types.is_struct(kind):
        return "struct"
    if types.is_map(kind):
        return "map"
    return "list" if types.is_list(kind) or types.is_fixed_size_list(kind) else str(kind)


def _inner(kind: Any) -> list[pa.Field]:
    """Returns the fields in a type, with the names that Parquet has for them."""
    types = pa.types
    if types.is_struct(kind):
        return list(kind)
    if types.is_map(kind):
        return [pa.field("key", kind.key_type, False), kind.item_field.with_name("value")]
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return [kind.value_field.with_name("element")]
    return []


def _marked(field: pa.Field, above: tuple[str, ...], ids: FieldIds) -> pa.Field:
    """Returns a field with its id, and the same for all fields in its type."""
    types, kind = pa.types, field.type
    inner = [_marked(each, (*above, field.name), ids) for each in _inner(kind)]
    if types.is_struct(kind):
        kind = pa.struct(inner)
    elif types.is_map(kind):
        kind = pa.map_(*inner)
    elif types.is_fixed_size_list(kind):
        kind = pa.list_(*inner, kind.list_size)
    elif types.is_list(kind):
        kind = pa.list_(*inner)
    metadata: Mapping[bytes, bytes] = {FIELD_ID: str(ids[_place(field, above)]).encode()}
    return pa.field(field.name, kind, field.nullable, metadata)
