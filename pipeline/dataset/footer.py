"""Reads the footers of shards: their records, and the columns that they really have."""

import dataclasses
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.dataset.record import ShardRecord
from pipeline.errors import DamagedError
from pipeline.storage import ObjectInfo, Storage


def read_record(storage: Storage, info: ObjectInfo) -> ShardRecord:
    """The record in a shard's footer; its columns are those that the file really has."""
    columns, metadata = _read(storage, info)
    record = ShardRecord.from_footer(metadata, info)
    return dataclasses.replace(record, columns_digest=schema.columns_digest(columns))


def read_columns(storage: Storage, info: ObjectInfo) -> pa.Schema:
    """The schema of a shard."""
    return _read(storage, info)[0]


def _read(storage: Storage, info: ObjectInfo) -> tuple[pa.Schema, Mapping[bytes, bytes] | None]:
    with storage.open(info.path) as file:
        try:
            found = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:  # storage's own failures are StorageErrors here
            raise DamagedError(
                "is damaged: a shard whose footer can't be read",
                info.path,
                str(error),
                hint="remove it and run again: it is made anew",
            ) from None
    return found.schema.to_arrow_schema().remove_metadata(), found.metadata
