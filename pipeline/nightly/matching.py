"""Finds vectors for texts that moved: joins a dataset's splits with its complete base by text hash.

These are plain functions; `embed.on_ray.match` wires them. Documents of both sides go into buckets by their
hash. In a bucket each split finds its documents in the base. The matches of one split are then gathered and
written as a file that the split's reader takes. A text that is common on both sides costs a row per split,
not per pair.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.sections import Config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.record import parquet_bytes
from pipeline.nightly.base import Base, base_of
from pipeline.plan.scan_row import splits_of
from pipeline.source import reader

DOCUMENTS_PER_BUCKET = 50_000


def base_documents(row: pa.Table, base: Base, kind: pa.DataType, buckets: int) -> pa.Table:
    """Returns the documents of a shard of the base (`group_by_document`) with their buckets; none if damaged.

    Args:
        kind: the type of `rows`. Ray can't shuffle blocks without columns, so a damaged shard's has them too.
    """
    # The base of this process, which reads dataset.json itself.
    base = base_of(base.path, base.options, base.digests)
    found = base.documents(row.column("shard")[0].as_py())
    if found is None:
        return _bucketed(pa.nulls(0, pa.string()), pa.nulls(0, pa.binary()), pa.nulls(0, kind), buckets)
    nobody = pa.nulls(found.num_rows, pa.string())
    return _bucketed(nobody, found.column("text_hash"), found.column("rows"), buckets)


def wanted_documents(
    row: pa.Table, config: Config, columns: pa.Schema, kind: pa.DataType, buckets: int
) -> Iterator[pa.Table]:
    """Yields the hashes of the distinct texts of each split of a scan, in the form of `base_documents`.

    Args:
        kind: the type of `rows`, which is null here.
    """
    for split_id, parts in reader.read_splits(splits_of(row), config, columns):
        documents = [part.documents for part in parts if part.documents]
        found = [column for part in documents for column in part.rows.column("text_hash").chunks]
        hashes = pa.chunked_array(found, pa.binary()).unique()
        yield _bucketed(pa.repeat(split_id, len(hashes)), hashes, pa.nulls(len(hashes), kind), buckets)


def join(bucket: pa.Table) -> pa.Table:
    """Returns the base's documents that the splits of a bucket want: `split_id`, `text_hash`, `rows`."""
    of_split = pc.is_valid(bucket.column("split_id"))
    wanted, base = bucket.filter(of_split), bucket.filter(pc.invert(of_split))
    found = pc.index_in(wanted.column("text_hash"), base.column("text_hash").combine_chunks())
    rows = base.column("rows").take(found.drop_null())
    return wanted.filter(pc.is_valid(found)).select(["split_id", "text_hash"]).append_column("rows", rows)


def keep(split: pa.Table, config: Config) -> pa.Table:
    """Writes the documents that the base has for one split."""
    dataset, split_id = Dataset.of(config), split.column("split_id")[0].as_py()
    path = dataset.layout.matches(split_id)
    dataset.storage.put(path, parquet_bytes(split.select(["text_hash", "rows"])))
    return pa.table({"documents": [split.num_rows]})


def _bucketed(split_ids: pa.Array, hashes: Any, rows: Any, buckets: int) -> pa.Table:
    """Assigns documents to buckets by the first bytes of their hash."""
    first = np.frombuffer(b"".join(pc.binary_slice(hashes, 0, 4).to_pylist()), np.uint32)
    columns = {"bucket": first.astype(np.int64) % buckets, "split_id": split_ids, "text_hash": hashes}
    return pa.table(columns | {"rows": rows})
