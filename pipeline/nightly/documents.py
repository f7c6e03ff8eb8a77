"""Handles documents of a base as tables: packs one per row, finds them by text hash, reads matches."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import parsing
from pipeline.dataset.damage import UNREADABLE, unless_damaged
from pipeline.dataset.dataset import Dataset
from pipeline.errors import MissingError
from pipeline.ragged import Ints


def group_by_document(rows: pa.Table) -> pa.Table:
    """Packs each document into a row: `text_hash`, and `rows`, the list of its one row or one per window."""
    chunked = "chunk" in rows.column_names
    first = np.flatnonzero(rows.column("chunk").to_numpy() == 0) if chunked else np.arange(rows.num_rows)
    offsets = pa.array(np.append(first, rows.num_rows), pa.int32())
    values = rows.drop_columns(["text_hash"]).to_struct_array().combine_chunks()
    hashes = rows.column("text_hash").combine_chunks().take(pa.array(first))
    return pa.table({"text_hash": hashes, "rows": pa.ListArray.from_arrays(offsets, values)})


def match_hashes(known: pa.Table, hashes: pa.Array) -> tuple[Ints, pa.Table]:
    """Finds the rows of the texts that have known vectors.

    Args:
        known: documents (`group_by_document`).  hashes: (N,) hashes of texts.

    Returns:
        The index of each row's text, ascending, (R,); and the rows.
    """
    found = pc.index_in(hashes, known.column("text_hash").combine_chunks())
    texts = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    lists = known.column("rows").take(found.drop_null()).combine_chunks()
    counts = pc.list_value_length(lists).to_numpy()
    return np.repeat(texts, counts), pa.Table.from_struct_array(lists.flatten())


def read_matches(dataset: Dataset, split_id: str) -> pa.Table | None:
    """Reads the documents that matching found in the base for a split; None if it found none."""
    path = dataset.layout.matches(split_id)
    try:
        data = dataset.storage.read(path)
    except MissingError:
        return None
    return unless_damaged(UNREADABLE, path, lambda: parsing.opened(data, path).read())
