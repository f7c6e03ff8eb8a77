"""Counts the ids of rows that are null, or that more than one row of a source has.

Owns which column identifies the rows of a source, and when two ids are equal: if their digests of 128 bits
are. So a billion rows take 16 GB, on local disk: digests are divided by their first bits into parts, and one
part after the other is sorted in memory.

Shapes: N ids.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.config.source import shard_column
from pipeline.dataset.dataset import Dataset
from pipeline.plan.plan import Plan

Digests = npt.NDArray[np.uint64]
"""(N, 2), the digests of ids."""
PARTS = 256
IN_MEMORY = 4 << 20
"""The most digests that are held before they go to disk: 64 MB."""
THREADS = 16
KEYS = ("ids of a dataset", "ids, once again.")
"""The keys of the two hashes of an id, 16 characters each."""


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of some rows of a source: how many are null, and the digests of the others."""

    nulls: int
    digests: Digests


NO_IDS = Ids(0, np.zeros((0, 2), np.uint64))


def id_columns(fields: Mapping[str, Any]) -> dict[str, str]:
    """Returns the id column in the shards of each source that has one.

    Args:
        fields: the `dataset_fields` of an identity.
    """
    found = {}
    for name, value in fields.items():
        section, _, key = name.rpartition(".")
        if section.startswith("source.") and key == "id_column" and value:
            found[section.removeprefix("source.")] = shard_column(value)
    return found


def ids_of(rows: pa.Table, source: str, column: str | None) -> Ids:
    """Returns the ids of the documents in rows of one source; none if it has no id column."""
    if column is None or column not in rows.column_names:
        return NO_IDS
    if "chunk" in rows.column_names:
        rows = rows.filter(pc.equal(rows["chunk"], 0))
    ids = rows[column]
    return Ids(ids.null_count, digests(ids.drop_null(), source))


def digests(ids: pa.ChunkedArray, source: str) -> Digests:
    """Returns the digests of ids of a source; equal ids of two sources have different ones."""
    values = _texts(ids)
    own = np.frombuffer(blake2b(source.encode(), digest_size=16).digest(), np.uint64)
    hashes = [pd.util.hash_array(values, hash_key=key, categorize=False) for key in KEYS]
    return np.column_stack(hashes) + own


def _texts(ids: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Returns each id as a text, or as bytes if it is some: equal ids of one type give equal ones."""
    try:
        found = (ids if pa.types.is_binary(ids.type) else ids.cast(pa.large_string())).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        found = [repr(each) for each in ids.to_pylist()]
    values = np.empty(len(found), object)
    values[:] = found
    return values


@dataclass
class Repeats:
    """Counts the digests that were added before, in bounded memory."""

    folder: Path
    _held: list[Digests] = field(default_factory=list)
    _count: int = 0
    _spilled: bool = False

    def add(self, more: Digests) -> None:
        """Adds digests."""
        self._held.append(more)
        self._count += len(more)
        if self._count >= IN_MEMORY:
            self._spill()

    def count(self) -> int:
        """Returns how many digests repeat another one."""
        if not self._spilled:
            return _repeats(_joined(self._held))
        self._spill()
        files = (self._file(part) for part in range(PARTS))
        return sum(_repeats(np.fromfile(file, np.uint64).reshape(-1, 2)) for file in files if file.exists())

    def _spill(self) -> None:
        """Appends what is held to the files of the parts."""
        held = _joined(self._held)
        part_N = (held[:, 0] >> np.uint64(56)).astype(np.int64)
        order = np.argsort(part_N, kind="stable")
        edges = np.searchsorted(part_N[order], np.arange(PARTS + 1))
        for part in np.flatnonzero(np.diff(edges)).tolist():
            with self._file(part).open("ab") as file:
                held[order[edges[part] : edges[part + 1]]].tofile(file)
        self._held, self._count, self._spilled = [], 0, True

    def _file(self, part: int) -> Path:
        return self.folder / f"{part:03d}"


@contextmanager
def repeats() -> Iterator[Repeats]:
    """Provides an empty `Repeats`, and removes its files at the end."""
    with tempfile.TemporaryDirectory(prefix="ids-") as folder:
        yield Repeats(Path(folder))


def _joined(parts: Sequence[Digests]) -> Digests:
    return np.concatenate([NO_IDS.digests, *parts])


def _repeats(found: Digests) -> int:
    """Counts the digests that equal one before them."""
    ordered = found[np.lexsort((found[:, 1], found[:, 0]))]
    return int((ordered[1:] == ordered[:-1]).all(axis=1).sum())


@dataclass(frozen=True, slots=True)
class IdCounts:
    """The ids of a dataset that identify no row: those that are null, and those that another row has."""

    null_ids: int
    repeated_ids: int


def count_ids(dataset: Dataset, plan: Plan, splits: Sequence[str], columns: Mapping[str, str]) -> IdCounts:
    """Counts the ids in shards of a dataset. Reads their id columns.

    Args:
        columns: as `id_columns` returns them.

    Raises:
        StorageError: storage failed.
        DamagedError: a shard can't be read.
    """
    wanted = set(splits)
    sources = {
        split: pieces[0].source
        for split, pieces in plan.splits()
        if split in wanted and pieces[0].source in columns
    }

    def read(split: str) -> Ids:
        source = sources[split]
        return ids_of(_read(dataset, split, columns[source]), source, columns[source])

    nulls = 0
    with repeats() as found, ThreadPoolExecutor(THREADS) as pool:
        for ids in pool.map(read, sources):
            nulls += ids.nulls
            found.add(ids.digests)
        return IdCounts(nulls, found.count())


def _read(dataset: Dataset, split: str, column: str) -> pa.Table:
    """Reads the columns of one shard that say which document a row is, and its id."""
    with dataset.storage.open(dataset.layout.shard(split)) as file:
        parquet = pq.ParquetFile(file)
        names = [name for name in (column, schema.CHUNK.names[0]) if name in parquet.schema_arrow.names]
        return parquet.read(columns=names)
