"""Reads a base: an older dataset from which a new one takes vectors instead of embedding again.

Storage copies complete shards if nothing in their split changed and the datasets are alike in all that
counts: the same dataset digest, the same columns, nothing that a second try may fix. Otherwise single vectors
are taken by the hash of their text, under an equal vector digest; every other column comes from the new
source. A document in windows gives all its windows or none.

`dataset.json` names the base, so every driver of a dataset, a resume or a rival, uses the same one.

A base belongs to others: it may be damaged, pruned, made again with another model, or forged. So it is
checked whenever something is taken from it, not only when it is chosen. A damaged base costs only reuse
(`unless_damaged`).
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import parsing, schema
from pipeline.config.location import Options
from pipeline.dataset.damage import UNREADABLE, unless_damaged
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import UNKNOWN_TO_FOOTERS, ShardRecord
from pipeline.errors import OtherDatasetError
from pipeline.model import outputs
from pipeline.nightly.documents import group_by_document
from pipeline.plan.plan import Plan
from pipeline.storage import ObjectInfo

NOTHING = "nothing is reused"
"""The event of the warning that a base can't be used at all."""
HASHES_KEPT = 64
"""The number of shards whose text hashes a process caches: 1 MB each, from the files of its splits."""
NO_COLUMNS = pa.schema([])


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests that a base had when the driver chose it."""

    vector: str
    dataset: str

    @classmethod
    def of(cls, identity: Identity) -> Self:
        return cls(identity.vector_digest, identity.dataset_digest)


@dataclass(frozen=True)
class Base:
    """A complete dataset with the same kind of vectors.

    digests: the digests that its dataset.json must still have; None until they are known.
    """

    path: str
    options: Options
    digests: Digests | None = None

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset(self.path, self.options)

    @cached_property
    def identity(self) -> Identity:
        """Reads the identity of the dataset, once.

        Raises:
            OtherDatasetError: it is gone, or is not the dataset that the driver chose.
        """
        found = self.dataset.identity()
        if found is None or self.dataset.claimed() is None:
            raise OtherDatasetError("is gone, or is being removed", self.path)
        if self.digests and self.digests != Digests.of(found):
            raise OtherDatasetError("is not the dataset that was chosen: it was made again", self.path)
        return found

    @cached_property
    def manifest(self) -> pa.Table:
        """Reads the manifest, a row per shard (`RECORD`).

        Raises:
            OtherDatasetError: it is gone, or is not the dataset that the driver chose.
        """
        found = self.dataset.manifest()
        _ = self.identity  # checked afterwards: a run that makes a base again writes dataset.json first
        return found

    @cached_property
    def shards_of(self) -> dict[str, list[str]]:
        """Returns the shards that hold rows of each source file; empty if the base can't be read."""
        return unless_damaged(NOTHING, self.path, self._shards_of, patient=False) or {}

    def _shards_of(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        columns = (self.manifest.column(name).to_pylist() for name in ("split_id", "pieces"))
        for split_id, pieces in zip(*columns, strict=True):
            for piece in pieces:
                found.setdefault(f"{piece['source']}/{piece['file']}", []).append(split_id)
        return found

    def versions(self) -> dict[str, str]:
        """Returns the version of each file that it was made from; empty if its plan can't be read."""
        found = unless_damaged("the base's plan can't be read", self.path, lambda: self.plan().versions())
        return {"/".join(key): version for key, version in (found or {}).items()}

    def plan(self) -> Plan:
        """Returns the plan of the base.

        Raises:
            OtherDatasetError: it is gone.
            DamagedError: it can't be read.
        """
        found = self.dataset.plan()
        if found is None:
            raise OtherDatasetError("its plan is gone", self.path)
        return found

    def known(self, source_files: Iterable[str], wanted: pa.Array) -> pa.Table | None:
        """Returns the documents of these files whose text has a wanted hash (`group_by_document`)."""
        shards = dict.fromkeys(shard for file in source_files for shard in self.shards_of.get(file, ()))
        found = [self.documents(shard) for shard in shards if self._has(shard, wanted)]
        kept = [each.filter(pc.is_in(each.column("text_hash"), wanted)) for each in found if each is not None]
        return pa.concat_tables(kept) if kept else None

    def documents(self, shard: str) -> pa.Table | None:
        """Returns all documents of a shard (`group_by_document`); None if it can't be read."""
        names = ["text_hash", *_taken()]
        where = f"{self.path}: shard {shard}"
        return unless_damaged(
            UNREADABLE, where, lambda: group_by_document(self._read(shard, names)), patient=False
        )

    def document_type(self) -> pa.DataType | None:
        """Returns the type of `rows` of its documents; None if it has no readable shard."""
        shards = unless_damaged(NOTHING, self.path, lambda: self.manifest.column("split_id").to_pylist())
        tables = (self.documents(shard) for shard in shards or ())
        return next((table.schema.field("rows").type for table in tables if table is not None), None)

    def checked(self, record: dict[str, Any], expected: pa.Schema) -> ShardRecord:
        """Checks that a shard and its reject file match its record in the manifest; returns the record.

        Cost: two requests for each of the two files, to read its footer.

        Args:
            expected: the columns that the shard must have.

        Raises:
            OtherDatasetError: they do not match.
            StorageError: they can't be read.
        """
        storage, layout, split_id = self.dataset.storage, self.dataset.layout, record["split_id"]
        # With a known size only the end of the file is read.
        with self._shard(split_id, storage.info(layout.shard(split_id))) as shard:
            _refuse_other_columns(shard.schema_arrow, expected, layout.shard(split_id))
            told = _told(shard)
        both = told.keys() & record.keys() - UNKNOWN_TO_FOOTERS
        if any(told[name] != record[name] for name in both):
            raise OtherDatasetError("its footer and the manifest differ", layout.shard(split_id))
        if record["rejects_file"]:
            path = layout.rejects_file(record["rejects_file"])
            with storage.open(path, storage.info(path)) as file:
                _refuse_other_columns(parsing.opened(file, path).schema_arrow, schema.REJECTS, path)
        return ShardRecord(**record)

    def _has(self, shard: str, wanted: pa.Array) -> bool:
        where = f"{self.path}: shard {shard}"
        hashes = unless_damaged(UNREADABLE, where, lambda: _hashes(self, shard), patient=False)
        return hashes is not None and bool(pc.any(pc.is_in(hashes, wanted)).as_py())

    def _read(self, shard: str, names: Sequence[str]) -> pa.Table:
        expected = self.identity.shard_schema(NO_COLUMNS)
        wanted = pa.schema([expected.field(name) for name in names if name in expected.names])
        with self._shard(shard) as parquet:
            there = parquet.schema_arrow
            found = pa.schema([there.field(name) for name in wanted.names if name in there.names])
            _refuse_other_columns(found, wanted, self.path)
            return parquet.read(wanted.names)

    @contextmanager
    def _shard(self, shard: str, known: ObjectInfo | None = None) -> Iterator[pq.ParquetFile]:
        """Opens a shard.

        Raises:
            OtherDatasetError: its footer says that it belongs to another dataset.
        """
        path = self.dataset.layout.shard(shard)
        with self.dataset.storage.open(path, known) as file:
            parquet = parsing.opened(file, path, page_checksum_verification=True)
            told, ours = _told(parquet), Digests.of(self.identity)
            # Shards of older versions do not name their dataset.
            whose = told.get("vector_digest") or ours.vector, told.get("dataset_digest") or ours.dataset
            if told["split_id"] != shard or whose != (ours.vector, ours.dataset):
                raise OtherDatasetError("is another dataset's shard", path)
            yield parquet


def _told(parquet: pq.ParquetFile) -> dict[str, Any]:
    """Reads the record in the footer of a shard."""
    return parsing.json_object((parquet.metadata.metadata or {})[schema.RECORD_KEY], "a shard's footer")


def _refuse_other_columns(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    if not found.equals(expected):
        raise OtherDatasetError("its columns are not those of its dataset", where)


@functools.lru_cache(maxsize=HASHES_KEPT)
def _hashes(base: Base, shard: str) -> pa.ChunkedArray:
    return base._read(shard, ["text_hash"]).column("text_hash")


@functools.lru_cache(maxsize=1)
def base_of(path: str, options: Options, digests: Digests | None = None) -> Base:
    """Returns the base, one object per process, so that its dataset.json and manifest are read once."""
    return Base(path, options, digests)


def _taken() -> list[str]:
    """Returns the columns that belong to a vector and are taken with it."""
    return [*outputs.columns(tuple(outputs.OUTPUTS)), "n_tokens", "truncated", *schema.CHUNK.names]
