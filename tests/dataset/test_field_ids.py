"""Tests that each field of a shard has a number that stays, and that no two fields ever share one."""

import pyarrow as pa
import pytest

from pipeline.dataset.field_ids import FIELD_ID, field_ids, with_field_ids

NESTED = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("author", pa.struct([("name", pa.string()), ("roles", pa.list_(pa.string()))])),
        pa.field("marks", pa.map_(pa.string(), pa.struct([("at", pa.timestamp("us", "UTC"))]))),
        pa.field("embedding", pa.list_(pa.float32(), 3), nullable=False),
    ]
)


def test_columns_come_first_and_then_what_is_nested() -> None:
    assert list(field_ids(NESTED).values()) == list(range(1, 12))
    assert [place[0] for place in list(field_ids(NESTED))[:4]] == NESTED.names


def test_they_are_those_that_iceberg_gives_to_a_new_table() -> None:
    pytest.importorskip("pyiceberg")
    from pyiceberg.io.pyarrow import pyarrow_to_schema
    from pyiceberg.schema import assign_fresh_schema_ids

    marked = with_field_ids(NESTED, field_ids(NESTED))
    ours = pyarrow_to_schema(marked)
    assert assign_fresh_schema_ids(ours).fields == ours.fields


def test_the_schema_stays_the_same_apart_from_the_ids() -> None:
    marked = with_field_ids(NESTED, field_ids(NESTED))
    assert marked.equals(NESTED)
    assert (marked.field("author").metadata or {})[FIELD_ID] == b"2"


def test_a_field_keeps_its_number_as_long_as_its_place_and_its_type_stay() -> None:
    before = field_ids(NESTED)
    columns = pa.schema([pa.field("new", pa.string()), NESTED.field("author"), pa.field("id", pa.string())])
    after = field_ids(columns, before)
    assert {place: after[place] for place in before} == before
    assert after[("new", "string")] == 12
    assert after[("id", "string")] == 13


def test_a_number_that_is_free_again_is_not_used_again() -> None:
    first = field_ids(NESTED)
    second = field_ids(pa.schema([NESTED.field("id")]), first)
    third = field_ids(pa.schema([NESTED.field("id"), pa.field("later", pa.int32())]), second)
    assert third[("later", "int32")] == 12


def test_fixed_and_plain_lists_have_one_number() -> None:
    plain = pa.schema([pa.field("embedding", pa.list_(pa.float32()))])
    assert field_ids(plain) == field_ids(pa.schema([pa.field("embedding", pa.list_(pa.float32(), 3))]))
