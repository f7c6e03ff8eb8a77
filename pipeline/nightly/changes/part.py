"""Writes the changed rows of one shard as a file: `part-<split>.parquet`, or with `-deleted` at its end.

Its name is its identity: who makes it again finds it there. So a job that was killed makes only what is
missing, and two jobs at once make each file once.
"""

from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import parsing
from pipeline.config.location import Options
from pipeline.dataset.dataset import Dataset
from pipeline.errors import DamagedError, ExistsError
from pipeline.model import outputs
from pipeline.model.output_spec import OutputSpec
from pipeline.nightly.changes.compare import count
from pipeline.nightly.changes.fingerprint import ShardToRead, opened
from pipeline.nightly.changes.pair import CHANGE
from pipeline.nightly.changes.record import CHANGES, DELETED, PartRecord

NO_CHANGE = "part-none.parquet"
"""The only file of changes without a row: many readers want one, for its columns."""
ROW_GROUP = 16_384


@dataclass(frozen=True)
class Target:
    """The folder of changes that a part belongs to.

    root, options: the dataset that it lies in.  folder: its path.  columns: those of each part.
    kept: the columns that a deleted row has.  spec: the outputs of the dataset.
    """

    root: str
    options: Options
    folder: str
    columns: pa.Schema
    kept: tuple[str, ...]
    spec: OutputSpec

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"


@dataclass(frozen=True)
class PartToWrite:
    """The changed rows of one shard (`CHANGED_ROW`, by their places), and where they go.

    there: whether the part was found in a listing.
    """

    shard: ShardToRead
    changed: npt.NDArray[Any]
    target: Target
    there: bool

    @property
    def name(self) -> str:
        return part_name(self.shard.split_id, bool(self.changed["change"][0] == DELETED))


def part_name(split_id: str, deleted: bool) -> str:
    """Returns the name of the part with the changed rows of a shard."""
    return f"part-{split_id}{'-deleted' if deleted else ''}.parquet"


def write_part(part: PartToWrite) -> PartRecord:
    """Writes the changed rows of a shard, unless that was done before; returns what the part holds.

    Raises:
        DamagedError: the part was there, and holds something else; or the shard can't be read.
        StorageError: storage failed.
    """
    data = _read(part.target, part.name) if part.there else _put(part.target, part.name, _rows(part))
    found = record(part.name, data, part.target.path(part.name))
    if found.counts != count(part.changed):
        hint = "remove the folder of these changes, and run again"
        raise DamagedError("holds other changes than it should", part.target.path(part.name), hint=hint)
    return found


def write_none(target: Target) -> PartRecord:
    """Writes the part without rows."""
    data = _put(target, NO_CHANGE, target.columns.empty_table())
    return record(NO_CHANGE, data, target.path(NO_CHANGE))


def record(name: str, data: bytes, where: str) -> PartRecord:
    """Returns what the bytes of a part hold.

    Raises:
        DamagedError: they are not those of a part.
    """
    changes = parsing.table(data, pa.schema([pa.field(CHANGE, pa.string(), nullable=False)]), where)
    values = changes.column(CHANGE).to_pylist()
    counts = {change: values.count(change) for change in CHANGES}
    return PartRecord(name, counts, len(data), blake2b(data, digest_size=16).hexdigest())


def _read(target: Target, name: str) -> bytes:
    return Dataset(target.root, target.options).storage.read(target.path(name))


def _put(target: Target, name: str, rows: pa.Table) -> bytes:
    """Writes a part if it is absent; returns the bytes that are there then, ours or a rival's."""
    data = _parquet(rows, target.spec)
    storage = Dataset(target.root, target.options).storage
    with suppress(ExistsError):
        storage.put_if_absent(target.path(name), data, target.root)
        return data
    return _read(target, name)


def _rows(part: PartToWrite) -> pa.Table:
    """Reads the changed rows of a shard; of deleted rows only what identifies them."""
    wanted, changes = part.changed["row"].astype(np.int64), part.changed["change"]
    columns, deleted = part.target.columns, bool(changes[0] == DELETED)
    kept = part.target.kept if deleted else part.shard.columns.names
    with opened(part.shard) as parquet:
        rows = _taken(parquet, wanted, [name for name in part.shard.columns.names if name in kept])
    names = pa.array([CHANGES[each] for each in changes.tolist()], pa.string())
    made = []
    for field in columns:
        if field.name == CHANGE:
            made.append(names)
        elif field.name in rows.column_names:
            made.append(rows.column(field.name).combine_chunks().cast(field.type))
        else:
            made.append(pa.nulls(len(rows), field.type))
    return pa.table(made, schema=columns)


def _taken(parquet: pq.ParquetFile, wanted: npt.NDArray[np.int64], names: list[str]) -> pa.Table:
    """Reads rows by their places, ascending, from the row groups that have any."""
    sizes = [parquet.metadata.row_group(at).num_rows for at in range(parquet.num_row_groups)]
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, wanted, side="right")
    found = []
    for group in np.unique(group_of).tolist():
        inside = wanted[group_of == group] - (ends[group] - sizes[group])
        found.append(parquet.read_row_group(group, columns=names).take(pa.array(inside)))
    return pa.concat_tables(found)


def _parquet(rows: pa.Table, spec: OutputSpec) -> bytes:
    rows = rows.replace_schema_metadata(outputs.metadata(spec))
    plain = [
        each.name for each in rows.schema if pa.types.is_nested(each.type) or pa.types.is_binary(each.type)
    ]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        rows.schema,
        compression="zstd",
        use_dictionary=[CHANGE, "source_file"],
        write_statistics=[name for name in rows.column_names if name not in plain],
        write_page_checksum=True,
    ) as file:
        if rows.num_rows:
            file.write_table(rows, row_group_size=ROW_GROUP)
    return bytes(sink.getvalue())
