"""Defines the record of a shard, which is kept in its footer, in the ledger and in the manifest."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Self, get_type_hints

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


class Sum(Enum):
    """The groups of sums in summary.json, in this order."""

    AMOUNT = "amount"
    CACHE = "cache"
    SECONDS = "seconds"
    """Seconds of one stage; Prometheus counts them as `stage_seconds`, labelled by the stage."""


class Knows(Enum):
    """The first place that knows a field: a footer is written before its file's size and write are known."""

    FOOTER = "footer"
    LISTING = "listing"
    WRITER = "writer"


@dataclass(frozen=True, slots=True)
class Column:
    """The properties of a field of `ShardRecord`.

    type: its Arrow type.  nullable: whether it may be missing in a row.
    total: its group of sums in summary.json, if any.
    counter: the help text of the Prometheus counter with its name, if there is one.
    known_by: the first place that knows it.
    """

    type: pa.DataType
    nullable: bool = False
    total: Sum | None = None
    counter: str | None = None
    known_by: Knows = Knows.FOOTER


TEXT = Column(pa.string())
SECONDS = Column(pa.float64(), total=Sum.SECONDS)


def _count(total: Sum | None = None, counter: str | None = None, known_by: Knows = Knows.FOOTER) -> Column:
    return Column(pa.int64(), total=total, counter=counter, known_by=known_by)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The record of one shard; kept in its footer, in the ledger and in the manifest.

    This is the only list of these fields: the columns of `RECORD` (in this order), the sums of summary.json
    and the counters of Prometheus are derived from it. A field with a default may be missing in the footer of
    another version of this program.

    reused: rows whose vectors an older dataset had.  transient: rejects that another try may fix.
    tokens: the tokens of all rows; computed_tokens: those that the model ran; padded_tokens: those that
        attention ran over.
    text_tokens: the tokens of the rows whose vectors are not reused, without special ones; unknown_tokens:
        those of them that stand for what the vocabulary lacks.  null_ids: documents whose id is null. An
        older version left these three 0.
    token_histogram: rows by their `n_tokens`, up to the last bucket of `schema.TOKEN_BUCKETS` that has any.
    labels: how many rows each output gave each label (`schema.LABEL`).
    idle_seconds: how long the replica waited for the split.  written_at: seconds since 1970, UTC.
    dataset_digest, vector_digest: as in dataset.json; columns_digest: the digest of the shard's schema.
        device: the device that made the vectors.  software: the versions of this program and of torch. An
        older version left these five empty.
    """

    split_id: Annotated[str, TEXT]
    rows: Annotated[int, _count(Sum.AMOUNT, "Rows embedded or reused.")]
    reused: Annotated[int, _count(counter="Rows whose vectors an older dataset had.")] = 0
    rejects: Annotated[int, _count(Sum.AMOUNT, "Rows that could not be embedded.")]
    transient: Annotated[int, _count(Sum.AMOUNT)] = 0
    tokens: Annotated[int, _count(Sum.AMOUNT, "Tokens of rows, before identical texts are left out.")] = 0
    computed_tokens: Annotated[int, _count(Sum.AMOUNT, "Tokens that the model ran.")] = 0
    padded_tokens: Annotated[int, _count(counter="Tokens that the model ran, padding included.")] = 0
    truncated: Annotated[int, _count(Sum.AMOUNT, "Texts that were cut at max_tokens.")] = 0
    text_tokens: Annotated[int, _count(Sum.AMOUNT, "Tokens of texts that were tokenized.")] = 0
    unknown_tokens: Annotated[int, _count(Sum.AMOUNT, "Tokens of what the vocabulary lacks.")] = 0
    null_ids: Annotated[int, _count(Sum.AMOUNT, "Rows whose id is null.")] = 0
    token_histogram: Annotated[Sequence[int], Column(pa.list_(pa.int64()))] = ()
    reasons: Annotated[Sequence[Mapping[str, Any]], Column(pa.list_(schema.REASON))] = ()
    labels: Annotated[Sequence[Mapping[str, Any]], Column(pa.list_(schema.LABEL))] = ()
    text_bytes: Annotated[int, _count(Sum.AMOUNT, "Bytes of text.")] = 0
    read_bytes: Annotated[int, _count(Sum.AMOUNT, "Bytes read from storage.")] = 0
    file_bytes: Annotated[int, _count(Sum.AMOUNT, known_by=Knows.LISTING)] = 0
    content_digest: Annotated[str, TEXT]
    rejects_file: Annotated[str | None, Column(pa.string(), nullable=True)] = None
    pieces: Annotated[Sequence[Mapping[str, Any]], Column(pa.list_(schema.PIECE))]
    read_seconds: Annotated[float, SECONDS] = 0.0
    tokenize_seconds: Annotated[float, SECONDS] = 0.0
    encode_seconds: Annotated[float, SECONDS] = 0.0
    idle_seconds: Annotated[float, SECONDS] = 0.0
    write_seconds: Annotated[float, replace(SECONDS, known_by=Knows.WRITER)] = 0.0
    written_at: Annotated[float, Column(pa.float64())] = 0.0
    cache_hits: Annotated[int, _count(Sum.CACHE, "Words whose tokens were known.")] = 0
    cache_misses: Annotated[int, _count(Sum.CACHE, "Words that went through the tokenizer.")] = 0
    storage_retries: Annotated[int, _count(Sum.AMOUNT, known_by=Knows.WRITER)] = 0
    attempt: Annotated[str, TEXT] = ""
    dataset_digest: Annotated[str, TEXT] = ""
    vector_digest: Annotated[str, TEXT] = ""
    columns_digest: Annotated[str, TEXT] = ""
    device: Annotated[str, TEXT] = ""
    software: Annotated[str, TEXT] = ""

    def to_json(self) -> str:
        """Writes the JSON of the footer, which can't know its own write: its size, time and retries."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_footer(cls, metadata: Mapping[bytes, bytes] | None, info: storage.ObjectInfo) -> Self:
        """Reads the record in a shard's footer, written by any version of this program.

        Fields that this version does not know are ignored; fields that the footer lacks get their defaults.

        Raises:
            OtherDatasetError: no shard of ours has such a footer.
            DamagedError: the record can't be read.
        """
        text = (metadata or {}).get(schema.RECORD_KEY)
        if text is None:
            raise OtherDatasetError(
                "is not a shard of ours: its footer has no record", info.path, hint="move it away"
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
                "is not a shard of ours: its footer's record is incomplete",
                info.path,
                f"no {', '.join(lacking)}",
                hint="move it away",
            )
        with parsing.damage(info.path):
            record = cls(**{field.name: content[field.name] for field in fields if field.name in content})
            to_table([record])  # each value is of its type
            return record


def _columns() -> dict[str, Column]:
    hints = get_type_hints(ShardRecord, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(ShardRecord)}


COLUMNS = _columns()
"""The properties of each field, by its name, in order."""
RECORD = pa.schema([pa.field(name, each.type, each.nullable) for name, each in COLUMNS.items()])
"""The schema of a row of the ledger and of the manifest."""
COUNTERS = {name: each.counter for name, each in COLUMNS.items() if each.counter}
"""The fields that Prometheus counts under their own names, with the help text of each."""
UNKNOWN_TO_FOOTERS = {name for name, each in COLUMNS.items() if each.known_by is not Knows.FOOTER}
"""The fields that are not known yet when a shard's footer is written."""
UNKNOWN_LATER = {name for name, each in COLUMNS.items() if each.known_by is Knows.WRITER}
"""The fields that only the writer ever knows, so that they are 0 in a record read from a footer."""


def summed(*groups: Sum) -> list[str]:
    """Returns the names of the fields in these groups of sums, group by group."""
    return [name for group in groups for name, each in COLUMNS.items() if each.total is group]


def to_table(records: Sequence[ShardRecord]) -> pa.Table:
    """Returns records as a table of `RECORD`."""
    return pa.Table.from_pylist([dataclasses.asdict(record) for record in records], schema=RECORD)


def read_records(data: bytes, where: str) -> pa.Table:
    """Reads the records (`RECORD`) in a Parquet file that any version of this program wrote.

    Raises:
        DamagedError: it is not such a file, or lacks a column that every version writes.
    """
    parquet = parsing.opened(data, where)
    there = pa.schema([field for field in RECORD if field.name in parquet.schema_arrow.names])
    found = parsing.columns(parquet, there, where)
    defaults = {field.name: field.default for field in dataclasses.fields(ShardRecord)}
    for at, field in enumerate(RECORD):
        if field.name in found.column_names:
            continue
        if defaults[field.name] is dataclasses.MISSING:
            raise DamagedError("lacks a column", where, field.name, hint="remove the file")
        found = found.add_column(at, field, pa.array([defaults[field.name]] * found.num_rows, field.type))
    return found


def parquet_bytes(table: pa.Table) -> bytes:
    """Writes a table as the bytes of a Parquet file; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


START = "start"
"""The stage of a failure that does not belong to a split: the replica could not start."""


@dataclass(frozen=True)
class Failure:
    """A split that could not be done, and why.

    files: the files at fault, or all files of the split if the cause is unknown.
    stage: "read", "encode", "write", or `START`.
    process: the node and the process in which it failed.
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
        """Tells whether `quality.allow_failed_files` may excuse it.

        A crash may be the machine's fault, and a file that one worker did not see may be in order.
        """
        uncertain = (CrashError.__name__, UnseenError.__name__)
        return self.exit_code == ExitCode.INCOMPLETE and self.kind not in uncertain
