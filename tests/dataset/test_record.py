"""Tests everything that is derived from the one definition of a shard's record, name by name."""

import dataclasses

import pyarrow as pa

from pipeline import schema
from pipeline.dataset.record import (
    COUNTERS,
    RECORD,
    UNKNOWN_LATER,
    UNKNOWN_TO_FOOTERS,
    ShardRecord,
    Sum,
    summed,
)

COLUMNS = pa.schema(
    [
        pa.field("split_id", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("reused", pa.int64(), nullable=False),
        pa.field("rejects", pa.int64(), nullable=False),
        pa.field("transient", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("computed_tokens", pa.int64(), nullable=False),
        pa.field("padded_tokens", pa.int64(), nullable=False),
        pa.field("truncated", pa.int64(), nullable=False),
        pa.field("text_tokens", pa.int64(), nullable=False),
        pa.field("unknown_tokens", pa.int64(), nullable=False),
        pa.field("null_ids", pa.int64(), nullable=False),
        pa.field("token_histogram", pa.list_(pa.int64()), nullable=False),
        pa.field("reasons", pa.list_(schema.REASON), nullable=False),
        pa.field("labels", pa.list_(schema.LABEL), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("read_bytes", pa.int64(), nullable=False),
        pa.field("file_bytes", pa.int64(), nullable=False),
        pa.field("content_digest", pa.string(), nullable=False),
        pa.field("rejects_file", pa.string()),
        pa.field("pieces", pa.list_(schema.PIECE), nullable=False),
        pa.field("read_seconds", pa.float64(), nullable=False),
        pa.field("tokenize_seconds", pa.float64(), nullable=False),
        pa.field("encode_seconds", pa.float64(), nullable=False),
        pa.field("idle_seconds", pa.float64(), nullable=False),
        pa.field("write_seconds", pa.float64(), nullable=False),
        pa.field("written_at", pa.float64(), nullable=False),
        pa.field("cache_hits", pa.int64(), nullable=False),
        pa.field("cache_misses", pa.int64(), nullable=False),
        pa.field("storage_retries", pa.int64(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
        pa.field("dataset_digest", pa.string(), nullable=False),
        pa.field("vector_digest", pa.string(), nullable=False),
        pa.field("columns_digest", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("software", pa.string(), nullable=False),
    ]
)
DEFAULTS = {
    "reused": 0, "transient": 0, "tokens": 0, "computed_tokens": 0, "padded_tokens": 0, "truncated": 0,
    "text_tokens": 0, "unknown_tokens": 0, "null_ids": 0,
    "token_histogram": (), "reasons": (), "labels": (), "text_bytes": 0, "read_bytes": 0, "file_bytes": 0,
    "rejects_file": None, "read_seconds": 0.0, "tokenize_seconds": 0.0, "encode_seconds": 0.0,
    "idle_seconds": 0.0, "write_seconds": 0.0, "written_at": 0.0, "cache_hits": 0, "cache_misses": 0,
    "storage_retries": 0, "attempt": "", "dataset_digest": "", "vector_digest": "", "columns_digest": "",
    "device": "", "software": "",
}  # fmt: skip


def test_the_columns_of_the_manifest_keep_names_types_and_order() -> None:
    assert RECORD.equals(COLUMNS, check_metadata=True)
    assert [field.name for field in dataclasses.fields(ShardRecord)] == COLUMNS.names


def test_an_older_footer_may_lack_the_same_fields_as_ever() -> None:
    fields = dataclasses.fields(ShardRecord)
    missing = dataclasses.MISSING
    assert {each.name: each.default for each in fields if each.default is not missing} == DEFAULTS


def test_the_summary_sums_the_same_fields_in_the_same_order() -> None:
    assert summed(Sum.AMOUNT, Sum.CACHE) == [
        "rows", "rejects", "transient", "tokens", "computed_tokens", "truncated", "text_tokens",
        "unknown_tokens", "null_ids", "text_bytes", "read_bytes", "file_bytes", "storage_retries",
        "cache_hits", "cache_misses",
    ]  # fmt: skip
    assert summed(Sum.SECONDS) == [
        "read_seconds", "tokenize_seconds", "encode_seconds", "idle_seconds", "write_seconds",
    ]  # fmt: skip


def test_prometheus_counts_the_same_fields_in_the_same_words() -> None:
    assert COUNTERS == {
        "rows": "Rows embedded or reused.",
        "reused": "Rows whose vectors an older dataset had.",
        "rejects": "Rows that could not be embedded.",
        "tokens": "Tokens of rows, before identical texts are left out.",
        "computed_tokens": "Tokens that the model ran.",
        "padded_tokens": "Tokens that the model ran, padding included.",
        "truncated": "Texts that were cut at max_tokens.",
        "text_tokens": "Tokens of texts that were tokenized.",
        "unknown_tokens": "Tokens of what the vocabulary lacks.",
        "null_ids": "Rows whose id is null.",
        "text_bytes": "Bytes of text.",
        "read_bytes": "Bytes read from storage.",
        "cache_hits": "Words whose tokens were known.",
        "cache_misses": "Words that went through the tokenizer.",
    }


def test_what_a_footer_can_not_know_stays_the_same() -> None:
    assert {"file_bytes", "storage_retries", "write_seconds"} == UNKNOWN_TO_FOOTERS
    assert {"storage_retries", "write_seconds"} == UNKNOWN_LATER
