"""Reads the records of shards from the ledger, and the others from their footers."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema, telemetry
from pipeline.dataset.layout import Layout
from pipeline.dataset.record import RECORD, ShardRecord, read_records, to_table
from pipeline.errors import DamagedError
from pipeline.storage import ObjectInfo, Storage

FOOTER_THREADS = 32


def read_all(storage: Storage, layout: Layout, shards: Mapping[str, ObjectInfo]) -> pa.Table:
    """Returns the record of each shard (`RECORD`), in no particular order."""
    wanted = pa.array(list(shards), pa.string())
    sizes = pa.array([info.size for info in shards.values()], pa.int64())
    files = sorted(storage.list_files(layout.ledger).items())
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        paths = [info.path for name, info in files if name.endswith(".parquet")]
        in_ledger = pool.map(lambda path: _in_ledger(storage, path), paths)
        known = pa.concat_tables([RECORD.empty_table(), *in_ledger])
        # A record with another size belongs to a shard that was removed and made again.
        there = pc.take(sizes, pc.index_in(known.column("split_id"), wanted))
        holds = pc.equal(there, known.column("file_bytes")).fill_null(False)
        known = known.take(_last_of_each(known.column("split_id"), pc.indices_nonzero(holds)))
        rest = pc.filter(wanted, pc.invert(pc.is_in(wanted, known.column("split_id").combine_chunks())))
        found = pool.map(lambda split_id: read_record(storage, shards[split_id]), rest.to_pylist())
        return pa.concat_tables([known, to_table(list(found))])


def _in_ledger(storage: Storage, path: str) -> pa.Table:
    """Reads the records in a file of the ledger; none if it is damaged, since footers say the same."""
    try:
        return read_records(storage.read(path), path)
    except DamagedError as error:
        telemetry.event("a file of the ledger is passed over", reason=str(error))
        return RECORD.empty_table()


def _last_of_each(ids: pa.ChunkedArray, positions: pa.Array) -> pa.Array:
    """Returns the last position of each id among these positions."""
    table = pa.table({"id": ids.take(positions), "position": positions})
    return table.group_by("id").aggregate([("position", "max")]).column("position_max")


def read_record(storage: Storage, info: ObjectInfo) -> ShardRecord:
    """Reads the record in a shard's footer; its columns digest is computed from the file itself."""
    columns, metadata = _read(storage, info)
    record = ShardRecord.from_footer(metadata, info)
    return dataclasses.replace(record, columns_digest=schema.columns_digest(columns))


def read_columns(storage: Storage, info: ObjectInfo) -> pa.Schema:
    """Returns the schema of a shard."""
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
                hint="remove it and run again: it is made again",
            ) from None
    return found.schema.to_arrow_schema().remove_metadata(), found.metadata
