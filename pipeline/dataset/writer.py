"""Writes rows and vectors as a shard: the reject file first, then the shard in one atomic step."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema, telemetry
from pipeline.dataset import vectors
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.field_ids import field_ids, with_field_ids
from pipeline.dataset.record import ShardRecord, parquet_bytes
from pipeline.errors import ExistsError
from pipeline.model import outputs
from pipeline.model.output_spec import EMBEDDING, OutputSpec
from pipeline.model.outputs import Values
from pipeline.plan.plan import FieldIds
from pipeline.ragged import Ints

ROW_GROUP_BYTES = 32 << 20
"""The size of a row group in memory: Spark, DuckDB and Ray give a shard's groups to different cores, and skip
those whose statistics exclude a row. Of 65,536 vectors of 768 numbers, groups of this size make 0.01 % more
bytes."""


@dataclass(frozen=True)
class Contents:
    """The content of one shard.

    rows: a table of `schema.rows_schema`.  outputs: the values of each output for the rows.
    rejects: a table of `schema.REJECTS`.  pieces: the range of each piece that was consumed.
    spec: the description of the outputs.
    too_large: (rows,) bool; the rows for which memory did not suffice.
    reused: further rows, with their stored vectors; a table of `schema.shard_schema`.
    order: (rows + reused,); the sort keys of all rows. None if `rows` are in order and nothing is reused.
    id_column: the name of the column that identifies the rows; None if their source names none.
    field_ids: the numbers of the shard's fields as far as the plan tells them.
    """

    split_id: str
    rows: pa.Table
    outputs: Mapping[str, Values]
    rejects: pa.Table
    pieces: Sequence[Mapping[str, Any]]
    spec: OutputSpec
    too_large: npt.NDArray[np.bool_] | None = None
    reused: pa.Table | None = None
    order: npt.NDArray[np.int64] | None = None
    id_column: str | None = None
    field_ids: FieldIds = field(default_factory=dict)


def write(dataset: Dataset, contents: Contents, figures: Mapping[str, Any]) -> ShardRecord:
    """Commits a shard and returns its record; the rival's record if a rival was first.

    Args:
        figures: further fields of the record: timings, the attempt, the reader's storage retries.

    Raises:
        StorageError: storage failed; nothing is committed.
        NonFiniteError: so many vectors are not finite that a device or the checkpoint must be at fault.
    """
    started = time.perf_counter()
    contents = _reject_non_finite(contents)
    table = _table(contents)
    retries = telemetry.retries.total() - figures.get("storage_retries", 0)
    rejects_file = _write_rejects(dataset, contents)
    record = _record(contents, table, rejects_file, figures)
    record = replace(record, storage_retries=telemetry.retries.total() - retries)
    data = _shard_bytes(table, record, contents)
    path = dataset.layout.shard(contents.split_id)
    try:
        dataset.storage.put_if_absent(path, data, dataset.layout.root)
    except ExistsError:
        return dataset.footer(dataset.storage.info(path))
    return replace(
        record,
        file_bytes=len(data),
        storage_retries=telemetry.retries.total() - retries,
        write_seconds=time.perf_counter() - started,
    )


def content_digest(shard: pa.Table, names: Sequence[str] = EMBEDDING) -> str:
    """Returns a digest of a shard's content, 32 hex digits, independent of the layout in Parquet.

    BLAKE2b-128 (RFC 7693) over, in order: the outputs as stored (the vectors, then the scales of int8, and so
    on), the rows' numbers, the numbers of windows, and the texts' hashes.

    Args:
        names: the outputs of the shard; other columns of their names are carried ones.
    """
    shard = shard.combine_chunks()
    digest = blake2b(digest_size=16)
    for name in outputs.columns(names):
        for chunk in shard.column(name).chunks if name in shard.column_names else ():
            for part in _content(chunk):
                digest.update(part)
    for name, kind in (("source_row", np.int64), ("chunk", np.int32)):
        if name in shard.column_names:
            digest.update(np.ascontiguousarray(shard.column(name).to_numpy(), kind).data)
    digest.update(b"".join(shard.column("text_hash").to_pylist()))
    return digest.hexdigest()


def _content(stored: pa.Array) -> Iterator[bytes | memoryview]:
    """Yields the values of a column as contiguous bytes; lengths come before what has several.

    Raises:
        TypeError: the column has another type than an output may have.
    """
    types, kind = pa.types, stored.type
    if types.is_struct(kind):
        for child in stored.flatten():
            yield from _content(child)
    elif types.is_list(kind):
        yield np.ascontiguousarray(pc.list_value_length(stored)).data
        yield from _content(stored.flatten())
    elif types.is_string(kind):
        yield np.ascontiguousarray(pc.binary_length(stored)).data
        yield b"".join(stored.cast(pa.binary()).to_pylist())
    elif types.is_binary(kind):
        yield b"".join(stored.to_pylist())
    else:
        array = np.ascontiguousarray(stored.flatten() if types.is_fixed_size_list(kind) else stored)
        if array.dtype.hasobject:
            raise TypeError(f"an output can't be {kind}: see model.outputs")
        yield array.data


def document_numbers(rows: pa.Table) -> Ints:
    """Returns the number of each row's document, from 0 in order of appearance, as (N,).

    Args:
        rows: a table with `source_file` and `source_row`, which identify a document.
    """
    places = rows.select(["source_file", "source_row"]).to_pandas()
    numbers_N: Ints = places.groupby(["source_file", "source_row"], sort=False).ngroup().to_numpy()
    return numbers_N


def _reject_non_finite(contents: Contents) -> Contents:
    """Rejects each document that has an output with NaN or infinity; the others stay.

    If one window of a document is bad, all its windows go. Another device, or more memory, may do better: so
    no such reject is permanent.
    """
    bad = ~outputs.finite(contents.outputs)
    too_large = np.zeros(len(bad), np.bool_) if contents.too_large is None else contents.too_large
    vectors.refuse_many_non_finite(bad, too_large, contents.split_id)
    if not bad.any():
        return contents
    document_N = document_numbers(contents.rows)
    bad_documents, first = np.unique(document_N[bad], return_index=True)
    first = np.flatnonzero(bad)[first]
    large = np.isin(bad_documents, document_N[too_large])
    rejected = contents.rows.take(pa.array(first))
    rejects = {
        "source_file": rejected.column("source_file"),
        "source_row": rejected.column("source_row"),
        "reason": pa.array(np.where(large, "out_of_memory", "non_finite_vector").tolist(), pa.string()),
        "permanent": pa.repeat(pa.scalar(False), len(first)),
        "text": pa.nulls(len(first), pa.string()),
    }
    kept = ~np.isin(document_N, bad_documents)
    order = contents.order
    if order is not None:
        order = np.concatenate([order[: len(kept)][kept], order[len(kept) :]])
    return replace(
        contents,
        order=order,
        rows=contents.rows.filter(pa.array(kept)),
        outputs={name: values[kept] for name, values in contents.outputs.items()},
        rejects=pa.concat_tables([contents.rejects, pa.Table.from_pydict(rejects, schema=schema.REJECTS)]),
        too_large=None,
    )


def _write_rejects(dataset: Dataset, contents: Contents) -> str | None:
    """Writes the reject file; its name holds the digest of its content, so that rivals can't overwrite it."""
    if not contents.rejects.num_rows:
        return None
    data = parquet_bytes(contents.rejects)
    path = dataset.layout.rejects(contents.split_id, blake2b(data, digest_size=8).hexdigest())
    with suppress(ExistsError):  # the name holds the content's digest: the existing file is the same
        dataset.storage.put_if_absent(path, data, dataset.layout.root)
    return path.rsplit("/", 1)[-1]


def _record(
    contents: Contents, table: pa.Table, rejects_file: str | None, figures: Mapping[str, Any]
) -> ShardRecord:
    rejects = contents.rejects
    return ShardRecord(
        split_id=contents.split_id,
        rows=table.num_rows,
        reused=contents.reused.num_rows if contents.reused else 0,
        rejects=rejects.num_rows,
        transient=rejects.num_rows - schema.total(rejects, "permanent"),
        tokens=schema.total(table, "n_tokens"),
        truncated=schema.total(table, "truncated"),
        null_ids=_null_ids(table, contents.id_column),
        token_histogram=token_histogram(table.column("n_tokens").to_numpy()),
        reasons=_reasons(rejects),
        labels=outputs.label_counts(table, contents.spec),
        written_at=round(time.time(), 3),
        content_digest=content_digest(table, contents.spec.names),
        columns_digest=schema.columns_digest(table.schema),
        rejects_file=rejects_file,
        pieces=_counted(contents.pieces, table, rejects),
        **figures,
    )


def _null_ids(table: pa.Table, column: str | None) -> int:
    """Counts the documents without an id."""
    if column is None:
        return 0
    nulls = pc.is_null(table[column])
    if "chunk" in table.column_names:
        nulls = pc.and_(nulls, pc.equal(table["chunk"], 0))
    return pc.sum(nulls).as_py() or 0


def token_histogram(n_tokens: npt.NDArray[np.int32]) -> list[int]:
    """Counts the (rows,) token counts in each bucket of `schema.TOKEN_BUCKETS`."""
    return [int(rows) for rows in np.bincount(np.searchsorted(schema.TOKEN_BUCKETS, n_tokens))]


def _reasons(rejects: pa.Table) -> list[dict[str, Any]]:
    counted = rejects.group_by("reason").aggregate([([], "count_all")]).sort_by("reason")
    reasons, rows = (column.to_pylist() for column in counted.columns)
    return [{"reason": reason, "rows": number} for reason, number in zip(reasons, rows, strict=True)]


def _counted(
    pieces: Sequence[Mapping[str, Any]], documents: pa.Table, rejects: pa.Table
) -> list[dict[str, Any]]:
    """Adds the number of its documents and rejects to each piece; a split may have thousands of pieces."""
    if "chunk" in documents.column_names:
        documents = documents.filter(pc.equal(documents.column("chunk"), 0))
    found = {"rows": _rows_by_file(documents), "rejects": _rows_by_file(rejects)}
    counted = []
    for piece in pieces:
        ends = [piece["start"], piece["stop"]]
        source_file = f"{piece['source']}/{piece['file']}"
        edges = {name: np.searchsorted(files.get(source_file, ()), ends) for name, files in found.items()}
        counted.append(dict(piece) | {name: int(stop - start) for name, (start, stop) in edges.items()})
    return counted


def _rows_by_file(table: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
    """Returns the row numbers of each file, ascending."""
    files = table.column("source_file").combine_chunks().dictionary_encode()
    code_N, row_N = files.indices.to_numpy(), table.column("source_row").to_numpy()
    order = np.lexsort((row_N, code_N))
    edges = np.searchsorted(code_N[order], np.arange(len(files.dictionary) + 1))
    parts = np.split(row_N[order], edges[1:-1])
    return dict(zip(files.dictionary.to_pylist(), parts, strict=False))


def _table(contents: Contents) -> pa.Table:
    """Returns the shard's table: embedded and reused rows in the order of the source."""
    fields = outputs.fields(contents.spec)
    table = contents.rows
    for each, column in zip(fields, outputs.store(contents.outputs, contents.spec), strict=True):
        table = table.append_column(each, column)
    final = schema.shard_schema(contents.rows.schema, fields)
    table = table.select(final.names).cast(final)
    if contents.reused is None or contents.order is None:
        return table
    table = pa.concat_tables([table, contents.reused.select(final.names).cast(final)])
    return table.take(pa.array(np.argsort(contents.order, kind="stable")))


def _shard_bytes(table: pa.Table, record: ShardRecord, contents: Contents) -> bytes:
    spec, ids = contents.spec, field_ids(table.schema, contents.field_ids)
    marked = with_field_ids(table.schema, ids)
    # Dictionaries and statistics of vectors cost time and space, and help no reader.
    ours = outputs.fields(spec)
    plain = [each.name for each in ours if pa.types.is_nested(each.type) or pa.types.is_binary(each.type)]
    repeated = ["source_file", "truncated", *(path for each in ours for path in _strings(each))]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        marked.with_metadata({schema.RECORD_KEY: record.to_json(), **outputs.metadata(spec)}),
        compression="zstd",
        use_dictionary=repeated,
        write_statistics=[name for name in table.column_names if name not in plain],
        write_page_checksum=True,
    ) as file:
        if table.num_rows:  # some readers fail on an empty row group, none on a file without row groups
            file.write_table(table, row_group_size=_rows_of_a_group(table))
    return bytes(sink.getvalue())  # one copy: S3's client takes nothing but bytes


def _strings(field: pa.Field) -> list[str]:
    """Returns the path in Parquet of each string of an output, alone or in a list of structs."""
    kind = field.type
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        return [f"{field.name}.list.element.{path}" for each in kind.value_type for path in _strings(each)]
    return [field.name] if pa.types.is_string(kind) else []


def _rows_of_a_group(table: pa.Table) -> int:
    return int(max(1, ROW_GROUP_BYTES * table.num_rows // max(1, table.nbytes)))
