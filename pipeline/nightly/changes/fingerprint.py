"""Reads a shard as fingerprints: for each row the digests of its id and of its content, and its place."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import parsing, schema
from pipeline.config.location import Options
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identifiers import digests
from pipeline.errors import DamagedError, OtherDatasetError
from pipeline.nightly.base import Digests
from pipeline.nightly.changes.rows import row_digests

OLD, NEW, SHARED = range(3)
"""The sides: only the old dataset has the shard, only the new one, or both."""
FINGERPRINT = np.dtype(
    [
        ("id_first", "<u8"), ("id_second", "<u8"), ("chunk", "<i4"), ("content", "<u8", (2,)),
        ("side", "u1"), ("shard", "<u4"), ("row", "<u4"),
    ]
)  # fmt: skip
"""The fingerprint of a row. `shard` is the number in `Pair.shards`, `row` the place in it."""
BATCH_ROWS = 8192
NOT_COMPARED = ("source_file", "source_row")
"""Where a row stands in its source: a row that only moved has not changed."""


@dataclass(frozen=True, slots=True)
class ShardToRead:
    """A shard of one of the two datasets.

    digests: those of its dataset.  rows: how many it must have, and columns: which ones.
    source: the source of its rows, and id_column: the column that identifies them.
    number: its number among all shards that are read.  side: whose shard it is.
    contents: whether its rows are compared; if not, only ids are read.
    """

    root: str
    options: Options
    digests: Digests
    split_id: str
    rows: int
    columns: pa.Schema
    source: str
    id_column: str
    number: int
    side: int
    contents: bool

    @property
    def path(self) -> str:
        return Dataset(self.root, self.options).layout.shard(self.split_id)


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The fingerprints of a shard's rows, and which of its rows have no id."""

    shard: ShardToRead
    rows: npt.NDArray[Any]
    nameless: npt.NDArray[np.int64]


def fingerprints(shard: ShardToRead) -> Fingerprints:
    """Returns the fingerprints of all rows of a shard that have an id.

    Raises:
        OtherDatasetError: it is another dataset's shard.
        DamagedError: it can't be read, or has other rows than its record says.
        StorageError: storage failed.
    """
    found, nameless, at = np.zeros(shard.rows, FINGERPRINT), [np.zeros(0, np.int64)], 0
    with opened(shard) as parquet:
        for batch in _batches(parquet, shard):
            rows = found[at : at + len(batch)]
            _refuse_more(len(rows), len(batch), shard)
            rows["row"] = np.arange(at, at + len(batch))
            named = _add_ids(rows, batch, shard)
            nameless.append(rows["row"][~named].astype(np.int64))
            if shard.contents:
                compared = [name for name in batch.schema.names if name not in NOT_COMPARED]
                contents = row_digests([batch.column(name) for name in compared])
                rows["content"] = contents.view(np.uint64)
            at += len(batch)
    _refuse_more(at, shard.rows, shard)
    lacking = np.concatenate(nameless)
    found["side"], found["shard"] = shard.side, shard.number
    return Fingerprints(shard, np.delete(found, lacking), lacking)


@contextmanager
def opened(shard: ShardToRead) -> Iterator[pq.ParquetFile]:
    """Opens a shard.

    Raises:
        OtherDatasetError: it is another dataset's shard, or has other columns than its dataset.
        DamagedError: it can't be read.
    """
    dataset = Dataset(shard.root, shard.options)
    with dataset.storage.open(shard.path) as file, parsing.damage(shard.path):
        parquet = parsing.opened(file, shard.path, page_checksum_verification=True)
        told = parsing.json_object((parquet.metadata.metadata or {})[schema.RECORD_KEY], shard.path)
        ours = shard.digests.vector, shard.digests.dataset
        # Shards of older versions do not name their dataset.
        whose = told.get("vector_digest") or ours[0], told.get("dataset_digest") or ours[1]
        if told["split_id"] != shard.split_id or whose != ours:
            hint = "`verify` shows what else is wrong"
            raise OtherDatasetError("is another dataset's shard", shard.path, hint=hint)
        parsing.refuse_other(parquet, shard.columns, shard.path)
        yield parquet


def _batches(parquet: pq.ParquetFile, shard: ShardToRead) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a shard in small batches, with the columns that are needed."""
    ids = [shard.id_column, *(name for name in schema.CHUNK.names[:1] if name in shard.columns.names)]
    names = [each for each in shard.columns.names if each not in NOT_COMPARED] if shard.contents else ids
    yield from parquet.iter_batches(BATCH_ROWS, columns=names)


def _add_ids(rows: npt.NDArray[Any], batch: pa.RecordBatch, shard: ShardToRead) -> npt.NDArray[np.bool_]:
    """Sets the digests of the ids, and the windows; returns which rows have an id, (N,)."""
    ids = batch.column(shard.id_column)
    named: npt.NDArray[np.bool_] = np.asarray(ids.is_valid())
    first_and_second = digests(pa.chunked_array([ids.drop_null()]), shard.source)
    rows["id_first"][named], rows["id_second"][named] = first_and_second.T
    if schema.CHUNK.names[0] in shard.columns.names:
        rows["chunk"] = batch.column(schema.CHUNK.names[0]).to_numpy()
    return named


def _refuse_more(found: int, wanted: int, shard: ShardToRead) -> None:
    if found != wanted:
        got = f"its record says {shard.rows} rows"
        raise DamagedError("does not have its rows", shard.path, got, "`verify` shows what else is damaged")
