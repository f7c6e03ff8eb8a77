"""What a dataset takes from an older one, its base, instead of embedding it again.

Whole shards are copied by storage where nothing of their split changed and the datasets are alike in all that
counts: the same dataset digest, the same columns, nothing that a second try may mend. Else single vectors
are taken by the hash of their text, under an equal vector digest; every other column comes from the new
source. Of a document in windows, all windows are taken or none.

The base is named in `dataset.json`, so every driver of a dataset, a resume or a rival, uses the same one.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import parsing, schema, telemetry
from pipeline.config import Config
from pipeline.dataset import Dataset, Identity, ShardRecord
from pipeline.errors import (
    ConfigError,
    ExistsError,
    MissingError,
    OtherDatasetError,
    ReplacedError,
    StorageError,
)
from pipeline.places import Options
from pipeline.plan import Plan
from pipeline.ragged import Ints
from pipeline.series import Series

Found = TypeVar("Found")
COPY_THREADS = 32
HASHES_KEPT = 64
"""Shards whose text hashes a process remembers: 1 MB each, of the files that its splits belong to."""
EMBEDDING = ("embedding", "embedding_scale", "n_tokens", "truncated", *schema.CHUNK.names)
"""The columns that belong to a vector, and are taken with it."""


@dataclass(frozen=True)
class Base:
    """A complete dataset of the same vectors."""

    path: str
    options: Options

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset(self.path, self.options)

    @cached_property
    def manifest(self) -> pa.Table:
        """A row per shard (`schema.RECORD`)."""
        return self.dataset.manifest()

    @cached_property
    def shards_of(self) -> dict[str, list[str]]:
        """The shards that hold rows of each source file."""
        found: dict[str, list[str]] = {}
        if _unless_damaged(lambda: self.manifest, self.path) is None:
            return found
        columns = (self.manifest.column(name).to_pylist() for name in ("split_id", "pieces"))
        for split_id, pieces in zip(*columns, strict=True):
            for piece in pieces:
                found.setdefault(f"{piece['source']}/{piece['file']}", []).append(split_id)
        return found

    def known(self, source_files: Iterable[str], wanted: pa.Array) -> pa.Table | None:
        """The documents of these files whose texts have one of the wanted hashes (`packed`)."""
        shards = dict.fromkeys(shard for file in source_files for shard in self.shards_of.get(file, ()))
        found = [self.documents(shard) for shard in shards if self._has(shard, wanted)]
        kept = [each.filter(pc.is_in(each.column("text_hash"), wanted)) for each in found if each is not None]
        return pa.concat_tables(kept) if kept else None

    def documents(self, shard: str) -> pa.Table | None:
        """All documents of a shard (`packed`); None where it can't be read."""
        names = ["text_hash", *EMBEDDING]
        return _unless_damaged(lambda: packed(self._read(shard, names)), f"{self.path}: shard {shard}")

    def document_type(self) -> pa.DataType | None:
        """The type of `rows` of its documents; None where it has no shard that can be read."""
        shards = self.manifest.column("split_id").to_pylist()
        tables = (self.documents(shard) for shard in shards)
        return next((table.schema.field("rows").type for table in tables if table is not None), None)

    def _has(self, shard: str, wanted: pa.Array) -> bool:
        hashes = _unless_damaged(lambda: _hashes(self, shard), f"{self.path}: shard {shard}")
        return hashes is not None and bool(pc.any(pc.is_in(hashes, wanted)).as_py())

    def _read(self, shard: str, names: Sequence[str]) -> pa.Table:
        path = self.dataset.layout.shard(shard)
        with self.dataset.storage.open(path) as file:
            parquet = parsing.opened(file, path, page_checksum_verification=True)
            return parquet.read([name for name in names if name in parquet.schema_arrow.names])


def _unless_damaged(read: Callable[[], Found], where: str) -> Found | None:
    """What a base holds is a gift: where it is gone or can't be read, texts are embedded as if new."""
    try:
        return read()
    except (StorageError, OtherDatasetError, pa.ArrowException, OSError, KeyError) as error:
        telemetry.event("the base can't be read", where=where, reason=str(error).splitlines()[0])
        return None


@functools.lru_cache(maxsize=HASHES_KEPT)
def _hashes(base: Base, shard: str) -> pa.ChunkedArray:
    return base._read(shard, ["text_hash"]).column("text_hash")


@functools.lru_cache(maxsize=1)
def base_of(path: str, options: Options) -> Base:
    """The base, once a process: its manifest is read once."""
    return Base(path, options)


def chosen(config: Config) -> str | None:
    """The path of the base that a config names; None where nothing is reused.

    Raises:
        ConfigError: it is no complete dataset.
    """
    name = config.reuse.base
    if name is None:
        return None
    folder, _, own = config.output.path.rpartition("/")
    if name == "latest":
        latest = Series(folder, config.output.options).latest()
        return f"{folder}/{latest.dataset}" if latest and latest.dataset != own else None
    path = name.rstrip("/") if "/" in name else f"{folder}/{name}"
    if path == config.output.path:
        raise ConfigError("a dataset can't be its own base", "reuse.base", name, hint="name another")
    if not Dataset(path, config.output.options).complete():
        hint = "name one that has data/_SUCCESS"
        raise ConfigError("is no complete dataset", "reuse.base", path, hint)
    return path


def adopted(dataset: Dataset, identity: Identity, options: Options) -> Base | None:
    """The base that `dataset.json` names, if its vectors are of the same kind."""
    path = dataset.base()
    return usable(path, identity, options) if path else None


def usable(path: str, identity: Identity, options: Options) -> Base | None:
    """The base at a path, if its vectors are of the same kind."""
    base = Base(path, options)
    found = base.dataset.identity()
    if found is None or found.vector_digest != identity.vector_digest:
        differing = identity.differences(found) if found else ["it is gone"]
        telemetry.event("nothing is reused", base=path, reason="; ".join(differing[:3]))
        return None
    return base if _unless_damaged(lambda: base.manifest, path) is not None else None


def copyable(base: Base, identity: Identity, pending: Plan) -> list[dict[str, Any]]:
    """The records of the shards that can stand for pending splits as they are. Nothing of them is read."""
    found = base.dataset.identity()
    if found is None or found.dataset_digest != identity.dataset_digest:
        differing = identity.differences(found) if found else ["it is gone"]
        telemetry.event("no shard is copied", base=base.path, reason="; ".join(differing[:3]))
        return []
    theirs = _unless_damaged(lambda: Plan.from_bytes(base.dataset.plan() or b""), base.path)
    if theirs is None or theirs.columns != pending.columns:
        telemetry.event("no shard is copied", base=base.path, reason="the columns' types differ")
        return []
    same = base.manifest.filter(pc.is_in(base.manifest.column("split_id"), pending.split_ids))
    return [record for record in same.to_pylist() if _is_final(record)]


def copy(base: Base, dataset: Dataset, identity: Identity, pending: Plan) -> Iterator[ShardRecord]:
    """Copy the shards of splits that are unchanged, by storage itself; the record of each.

    Cost: two requests a shard, in threads; nothing is read.
    """
    with ThreadPoolExecutor(COPY_THREADS) as pool:
        whole = copyable(base, identity, pending)
        for copied in pool.map(lambda record: _copy(base, dataset, record), whole):
            if copied:
                yield copied


def _is_final(record: dict[str, Any]) -> bool:
    """Nothing in a shard may be mended by a second try: no such reject, no file that could not be read."""
    return record["transient"] == 0 and not any(piece["error"] for piece in record["pieces"])


def _copy(base: Base, dataset: Dataset, record: dict[str, Any]) -> ShardRecord | None:
    """Copy a shard, its reject file first; None where it is gone."""
    store, old, new = dataset.storage, base.dataset.layout, dataset.layout
    try:
        if record["rejects_file"]:
            name = record["rejects_file"]
            store.copy_if_absent(old.rejects_file(name), new.rejects_file(name), new.root)
        store.copy_if_absent(old.shard(record["split_id"]), new.shard(record["split_id"]), new.root)
    except (MissingError, ReplacedError) as error:  # it is pruned under our hands: then it is embedded
        telemetry.event("not copied", split=record["split_id"], reason=str(error))
        return None
    except ExistsError:  # a rival embedded it
        return dataset.footer(store.info(new.shard(record["split_id"])))
    return ShardRecord(**record)


def packed(rows: pa.Table) -> pa.Table:
    """A row a document: `text_hash`, and `rows`, the list of its rows, one or one for each window."""
    chunked = "chunk" in rows.column_names
    first = np.flatnonzero(rows.column("chunk").to_numpy() == 0) if chunked else np.arange(rows.num_rows)
    offsets = pa.array(np.append(first, rows.num_rows), pa.int32())
    values = rows.drop_columns(["text_hash"]).to_struct_array().combine_chunks()
    hashes = rows.column("text_hash").combine_chunks().take(pa.array(first))
    return pa.table({"text_hash": hashes, "rows": pa.ListArray.from_arrays(offsets, values)})


def matched(known: pa.Table, hashes: pa.Array) -> tuple[Ints, pa.Table]:
    """Which texts have known vectors, and their rows.

    Args:
        known: documents, `packed`.  hashes: (N,) of texts.

    Returns:
        (R,) for each row the text that it is of, ascending; and the rows.
    """
    found = pc.index_in(hashes, known.column("text_hash").combine_chunks())
    texts = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    lists = known.column("rows").take(found.drop_null()).combine_chunks()
    counts = pc.list_value_length(lists).to_numpy()
    return np.repeat(texts, counts), pa.Table.from_struct_array(lists.flatten())


def load(dataset: Dataset, split_id: str) -> pa.Table | None:
    """The documents that matching the whole dataset found for a split; None where it found none."""
    path = dataset.layout.matches(split_id)
    try:
        data = dataset.storage.read(path)
    except MissingError:
        return None
    return parsing.opened(pa.BufferReader(data), path).read()
