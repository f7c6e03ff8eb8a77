"""Parquet: cut along row groups, large groups within; only the columns that are needed are read."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import Source
from pipeline.errors import SourceError
from pipeline.formats.piece import Piece, Raw, Span, Survey
from pipeline.schema import readable_type

BATCH_ROWS = 8192
TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def survey(file: pa.NativeFile, size: int, source: Source) -> Survey:
    """How the file can be cut; reads its footer alone.

    Raises:
        SourceError: it is no Parquet file, or lacks the text or id column.
    """
    parquet = _open(file, size)
    names = parquet.schema_arrow.names
    for name in (source.text_column, source.id_column):
        if name and name not in names:
            raise SourceError("has no such column", got=f"{name!r} among {', '.join(names)}")
    for name in (source.text_column, *source.columns):
        if names.count(name) > 1:
            raise SourceError("has a column twice", got=repr(name))
    kind = parquet.schema_arrow.field(source.text_column).type
    if not _is_text(kind):
        raise SourceError(f"column {source.text_column!r} is no text", got=str(kind))
    return Survey("rows", _columns(parquet, source), tuple(_spans(parquet, source)))


def read(file: pa.NativeFile, piece: Piece, source: Source) -> Raw:
    """The rows of one piece.

    Raises:
        SourceError: the file is damaged.
    """
    parquet = _open(file, piece.size)
    columns = _columns(parquet, source)
    try:
        table = _rows(parquet, piece.start, piece.stop, [source.text_column, *columns.names])
    except (pa.ArrowException, OSError) as error:
        raise SourceError("can't be read", got=_first_line(error)) from None
    texts = table.column(source.text_column)
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    positions = pa.array(np.arange(piece.start, piece.stop, dtype=np.int64))
    return Raw(
        texts=texts.cast(pa.large_string()).combine_chunks(),
        columns=_readable(table.select(columns.names), columns),
        positions=positions,
        start=piece.start,
        stop=piece.stop,
    )


def _open(file: pa.NativeFile, size: int) -> pq.ParquetFile:
    try:
        # Spark's INT96 timestamps are read as microseconds: nanoseconds turn the year 9999 into 1816.
        return pq.ParquetFile(
            file, coerce_int96_timestamp_unit="us", pre_buffer=True, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise SourceError("is no whole Parquet file", got=f"{size} bytes: {_first_line(error)}") from None


def _columns(parquet: pq.ParquetFile, source: Source) -> pa.Schema:
    present = [name for name in source.columns if name in parquet.schema_arrow.names]
    try:
        return pa.schema(
            [pa.field(name, readable_type(parquet.schema_arrow.field(name).type)) for name in present]
        )
    except pa.ArrowNotImplementedError as error:
        raise SourceError("a carried column has a type that not all readers take", got=str(error)) from None


def _spans(parquet: pq.ParquetFile, source: Source) -> list[Span]:
    """One span a row group; the bytes of its text and carried columns as they were before compression."""
    metadata = parquet.metadata
    wanted = {source.text_column, *source.columns}
    paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    leaves = [leaf for leaf, path in enumerate(paths) if path in wanted or path.split(".", 1)[0] in wanted]
    spans, start = [], 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        text_bytes = float(sum(group.column(leaf).total_uncompressed_size for leaf in leaves))
        spans.append(Span(start, start + group.num_rows, group.num_rows, text_bytes))
        start += group.num_rows
    return [span for span in spans if span.rows]


def _rows(parquet: pq.ParquetFile, start: int, stop: int, names: list[str | None]) -> pa.Table:
    """Rows [start, stop), reading no row group that holds none of them and no batch after the last."""
    counts = [parquet.metadata.row_group(index).num_rows for index in range(parquet.metadata.num_row_groups)]
    stops = np.cumsum([0, *counts])
    groups = [i for i in range(len(counts)) if stops[i] < stop and stops[i + 1] > start]
    position = int(stops[groups[0]]) if groups else 0
    kept = []
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(dict.fromkeys(names))):
        first, last = max(start - position, 0), min(stop - position, batch.num_rows)
        if first < last:
            kept.append(batch.slice(first, last - first))
        position += batch.num_rows
        if position >= stop:
            break
    table = pa.Table.from_batches(kept)
    if table.num_rows != stop - start:
        raise SourceError("has fewer rows than its footer says", got=f"{table.num_rows} of {stop - start}")
    return table


def _readable(table: pa.Table, columns: pa.Schema) -> pa.Table:
    """Carried columns in readable types; of timestamps the nanoseconds are dropped, of all else nothing."""
    arrays = []
    for column, field in zip(table.columns, columns, strict=True):
        options = pc.CastOptions(target_type=field.type, allow_time_truncate=True)
        try:
            arrays.append(_storage(column).cast(options=options))
        except pa.ArrowException as error:
            raise SourceError(f"column {field.name!r} can't be carried", got=_first_line(error)) from None
    return pa.Table.from_arrays(arrays, schema=columns) if arrays else pa.table({})


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values behind an extension type (uuid, json, ...)."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(matches(kind) for matches in TEXT_TYPES)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
