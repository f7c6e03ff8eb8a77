"""What is known of one shard: in its footer, in the ledger and in the manifest."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import parsing, schema, storage
from pipeline.errors import (
    CrashError,
    DamagedError,
    ExitCode,
    OtherDatasetError,
    UnseenError,
)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What is known of one shard (`schema.RECORD`); kept in its footer, in the ledger and in the manifest.

    What has a default may be missing in the footer of another version of this program.
    """

    split_id: str
    rows: int
    rejects: int
    content_digest: str
    pieces: Sequence[Mapping[str, Any]]
    reused: int = 0
    transient: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    token_histogram: Sequence[int] = ()
    reasons: Sequence[Mapping[str, Any]] = ()
    text_bytes: int = 0
    read_bytes: int = 0
    rejects_file: str | None = None
    read_seconds: float = 0.0
    tokenize_seconds: float = 0.0
    encode_seconds: float = 0.0
    idle_seconds: float = 0.0
    written_at: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0
    attempt: str = ""
    storage_retries: int = 0
    write_seconds: float = 0.0
    file_bytes: int = 0
    dataset_digest: str = ""
    vector_digest: str = ""
    columns_digest: str = ""
    device: str = ""
    software: str = ""

    def to_json(self) -> str:
        """For the footer, which can't know of its own write: how large, how long, how often tried."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_footer(cls, metadata: Mapping[bytes, bytes] | None, info: storage.ObjectInfo) -> Self:
        """From a shard's footer, whichever version of this program wrote it: fields that we do not know are
        passed over, and those that it does not know have their defaults.

        Raises:
            OtherDatasetError: no shard of ours has such a footer.
            DamagedError: it has one that can't be read.
        """
        text = (metadata or {}).get(schema.RECORD_KEY)
        if text is None:
            raise OtherDatasetError(
                "is no shard of ours: its footer has no record", info.path, hint="move it away"
            )
        content = parsing.json_object(text, info.path) | {"file_bytes": info.size}
        fields = dataclasses.fields(cls)
        lacking = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.name not in content
        ]
        if lacking:
            raise OtherDatasetError(
                "is no shard of ours: its footer's record is incomplete",
                info.path,
                f"no {', '.join(lacking)}",
                hint="move it away",
            )
        with parsing.damage(info.path):
            record = cls(**{field.name: content[field.name] for field in fields if field.name in content})
            to_table([record])  # each value is of its type
            return record


def to_table(records: Sequence[ShardRecord]) -> pa.Table:
    """Records as a table of `schema.RECORD`."""
    return pa.Table.from_pylist([dataclasses.asdict(record) for record in records], schema=schema.RECORD)


def read_records(data: bytes, where: str) -> pa.Table:
    """Records (`schema.RECORD`) of a Parquet file of ours, whichever version of this program wrote it.

    Raises:
        DamagedError: it is none, or lacks a column that every version writes.
    """
    parquet = parsing.opened(pa.BufferReader(data), where)
    there = pa.schema([field for field in schema.RECORD if field.name in parquet.schema_arrow.names])
    found = parsing.columns(parquet, there, where)
    defaults = {field.name: field.default for field in dataclasses.fields(ShardRecord)}
    for at, field in enumerate(schema.RECORD):
        if field.name in found.column_names:
            continue
        if defaults[field.name] is dataclasses.MISSING:
            raise DamagedError("lacks a column", where, field.name, hint="remove the file")
        found = found.add_column(at, field, pa.array([defaults[field.name]] * found.num_rows, field.type))
    return found


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; the same bytes for the same table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


START = "start"
"""The stage of a failure that is no split's: the replica could not start."""


@dataclass(frozen=True)
class Failure:
    """A split that could not be done, and why.

    files: whose fault it is, or all of the split where that can't be told.
    stage: "read", "encode", "write", or `START`.
    process: the node and the process that it failed in.
    kind: the name of the error's class.
    """

    split_id: str
    files: tuple[str, ...]
    stage: str
    exit_code: int
    message: str
    process: str = ""
    kind: str = ""

    @property
    def is_of_files(self) -> bool:
        """Whether `quality.allow_failed_files` may speak of it.

        A crash is of the machine as well; and what one worker did not see is no word about a file.
        """
        uncertain = (CrashError.__name__, UnseenError.__name__)
        return self.exit_code == ExitCode.INCOMPLETE and self.kind not in uncertain
