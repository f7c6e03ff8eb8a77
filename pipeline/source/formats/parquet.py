"""Reads Parquet: files are cut between row groups, large groups also within; only needed columns are read.

The claims of a footer are checked before anything uses them. Nothing tells how much its pages expand to until
they are read: so they are read a few rows at a time, and within a limit of memory.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.schema import readable_type
from pipeline.source.formats import bounds, memory
from pipeline.source.formats.compression import compression, damage_named, first_line
from pipeline.source.formats.format import Format
from pipeline.source.formats.ranges import in_ranges
from pipeline.source.piece import Piece, RawRows, Span, Survey, named

BATCH_ROWS, BATCH_BYTES = 8192, 32 << 20
EXPANDING = {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}
"""Encodings in which a few bytes may stand for many, repeatedly."""
EXPANDING_ROWS = 2048
DECODING = 1 << 30
"""Bytes of memory for a batch, in addition to the pages that it comes from."""
TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def survey(file: pa.NativeFile, name: str, size: int, source: Source) -> Survey:
    """Finds how the file can be cut; reads only its footer.

    Raises:
        SourceError: it is not a Parquet file, its footer can't be true, or it lacks the text or id column.
    """
    if method := compression(name, source):
        raise SourceError(
            "is a compressed Parquet file, which can't be read",
            got=method,
            hint="uncompress it: Parquet compresses its own pages",
        )
    parquet = _open(file, size)
    names = parquet.schema_arrow.names
    for path in (source.text_column, *source.fields.values()):
        if path and names.count(path.split(".")[0]) > 1:
            raise SourceError("has a column twice", got=repr(path), hint="rename one of them")
    for path in (source.text_column, source.id_column):
        if path and _field(parquet.schema_arrow, path) is None:
            raise SourceError(
                "has no such column",
                got=f"{path!r} among {named(names)}",
                hint="check text_column and id_column",
            )
    kind = _field(parquet.schema_arrow, source.text_column or "")
    if not _is_text(kind):
        raise SourceError(
            f"column {source.text_column!r} is not text", got=str(kind), hint="name another text_column"
        )
    leaves = _leaves(parquet, source)
    _check_claims(parquet.metadata, leaves, size)
    return Survey("rows", _columns(parquet, source), tuple(_spans(parquet.metadata, leaves)))


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, _: pa.Schema) -> Iterator[RawRows]:
    """Yields the rows of each piece. Reads only the row groups that hold them, and each once.

    Raises:
        SourceError: the file is damaged.
    """
    parquet = _open(file, pieces[0].size)
    columns = _columns(parquet, source)
    paths = [source.text_column or "", *(source.fields[name] for name in columns.names)]
    first, groups = _groups(parquet, pieces[0].start, pieces[-1].stop)
    rows, pages = _batch_size(parquet.metadata, groups, _leaves(parquet, source))
    with damage_named():
        batches = parquet.iter_batches(rows, row_groups=groups, columns=list(dict.fromkeys(paths)))
        tables = _tables(batches, paths, columns, DECODING + pages)
        for piece, table in in_ranges(tables, pieces, first):
            yield RawRows(
                texts=table.column(0).combine_chunks(),
                columns=table.select(range(1, table.num_columns)) if columns.names else pa.table({}),
                positions=pa.array(np.arange(piece.start, piece.stop, dtype=np.int64)),
                start=piece.start,
                stop=piece.stop,
            )


def _tables(
    batches: Iterator[pa.RecordBatch], paths: Sequence[str], columns: pa.Schema, most: int
) -> Iterator[pa.Table]:
    """Yields the texts and the carried columns of each batch, in readable types, at their final size.

    Args:
        most: the most bytes of memory that a batch may take.
    """
    while True:
        with memory.at_most(most):
            batch = next(batches, None)
            if batch is None:
                return
            table = pa.Table.from_batches([batch])
            texts, *others = (_value(table, path) for path in paths)
            table = pa.Table.from_arrays(
                [_texts(texts), *_readable(others, columns)], names=["", *columns.names]
            )
        yield table


def _batch_size(metadata: pq.FileMetaData, groups: Sequence[int], leaves: Sequence[int]) -> tuple[int, int]:
    """Returns the rows of a batch that is not too large by the footer, and the bytes of its pages."""
    rows, pages = BATCH_ROWS, [0]
    for index in groups:
        group = metadata.row_group(index)
        chunks = [group.column(leaf) for leaf in leaves]
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        if any(EXPANDING.intersection(chunk.encodings) for chunk in chunks):
            rows = min(rows, EXPANDING_ROWS)
        rows = min(rows, max(1, BATCH_BYTES * group.num_rows // max(1, size)))
        pages.append(size)
    stored = sum(
        metadata.row_group(index).column(leaf).total_compressed_size for index in groups for leaf in leaves
    )
    return rows, stored + max(pages)


def _groups(parquet: pq.ParquetFile, start: int, stop: int) -> tuple[int, list[int]]:
    """Returns the first row of the row groups that hold any of the rows [start, stop), and these groups."""
    counts = [parquet.metadata.row_group(index).num_rows for index in range(parquet.metadata.num_row_groups)]
    stops = np.cumsum([0, *counts])
    groups = [i for i in range(len(counts)) if stops[i] < stop and stops[i + 1] > start]
    return (int(stops[groups[0]]) if groups else 0), groups


def _field(schema: pa.Schema, path: str) -> pa.DataType | None:
    """Returns the type at a dotted path, which may also be a single name; None if nothing is there."""
    if path in schema.names:
        return schema.field(path).type
    name, *inner = path.split(".")
    kind = schema.field(name).type if name in schema.names else None
    for key in inner:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def _value(table: pa.Table, path: str) -> pa.ChunkedArray:
    if path in table.column_names:
        return table.column(path)
    name, *inner = path.split(".")
    return pc.struct_field(table.column(name), inner)


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string())


def _check_claims(metadata: pq.FileMetaData, leaves: Sequence[int], size: int) -> None:
    """Checks the claims of a footer.

    Raises:
        SourceError: it contradicts itself, or claims more than a file of that size can hold.
    """
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise _untrue(f"{metadata.num_rows} rows, and {sum(rows)} in its {len(groups)} row groups")
    bounds.refuse_rows(metadata.num_rows, size)
    stored = expanded = 0
    for group in groups:
        for leaf in leaves:
            chunk = group.column(leaf)
            _check_chunk(chunk, group.num_rows, metadata.schema.column(leaf).max_repetition_level > 0)
            stored, expanded = stored + chunk.total_compressed_size, expanded + chunk.total_uncompressed_size
    if stored > size:
        raise _untrue(f"{stored} bytes of columns in a file of {size}")
    bounds.refuse_expansion(expanded, size)


def _check_chunk(chunk: pq.ColumnChunkMetaData, rows: int, repeated: bool) -> None:
    name, values = chunk.path_in_schema, chunk.num_values
    if values < rows or (values > rows and not repeated):
        raise _untrue(f"{values} values of column {name!r} in a row group of {rows} rows")
    if min(chunk.total_compressed_size, chunk.total_uncompressed_size) < 0:
        raise _untrue(f"a negative size of column {name!r}")


def _untrue(got: str) -> SourceError:
    return SourceError("has a footer that can't be true", got=got, hint="make it again, or leave it out")


def _open(file: pa.NativeFile, size: int) -> pq.ParquetFile:
    try:
        # Spark's INT96 timestamps are read as microseconds: nanoseconds turn the year 9999 into 1816.
        return pq.ParquetFile(
            file, coerce_int96_timestamp_unit="us", pre_buffer=True, page_checksum_verification=True
        )
    except MemoryError:
        raise  # Arrow's is an `ArrowException`, too
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            "is not a complete Parquet file",
            got=f"{size} bytes: {first_line(error)}",
            hint="make it again, or leave it out",
        ) from None


def _columns(parquet: pq.ParquetFile, source: Source) -> pa.Schema:
    found = {name: _field(parquet.schema_arrow, path) for name, path in source.fields.items()}
    try:
        return pa.schema([pa.field(name, readable_type(kind)) for name, kind in found.items() if kind])
    except pa.ArrowNotImplementedError as error:
        raise SourceError(
            "a carried column has a type that some readers refuse", got=str(error), hint="do not carry it"
        ) from None


def _leaves(parquet: pq.ParquetFile, source: Source) -> list[int]:
    """Returns the numbers of the columns that are read, as the file counts them."""
    wanted = tuple(f"{path}." for path in (source.text_column, *source.fields.values()))
    schema = parquet.metadata.schema
    return [leaf for leaf in range(len(schema)) if f"{schema.column(leaf).path}.".startswith(wanted)]


def _spans(metadata: pq.FileMetaData, leaves: Sequence[int]) -> list[Span]:
    """Returns a span for each row group, with the uncompressed bytes of its text and carried columns."""
    spans, start = [], 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        chunks = [group.column(leaf) for leaf in leaves]
        text_bytes, stored_bytes = (
            float(sum(getattr(chunk, name) for chunk in chunks))
            for name in ("total_uncompressed_size", "total_compressed_size")
        )
        spans.append(Span(start, start + group.num_rows, group.num_rows, text_bytes, stored_bytes))
        start += group.num_rows
    return [span for span in spans if span.rows]


def _readable(found: Sequence[pa.ChunkedArray], columns: pa.Schema) -> list[pa.ChunkedArray]:
    """Casts carried columns to readable types. Only the nanoseconds of timestamps are lost."""
    arrays = []
    for column, field in zip(found, columns, strict=True):
        options = pc.CastOptions(target_type=field.type, allow_time_truncate=True)
        try:
            arrays.append(_storage(column).cast(options=options))
        except MemoryError:
            raise
        except pa.ArrowException as error:
            raise SourceError(
                f"column {field.name!r} can't be carried", got=first_line(error), hint="do not carry it"
            ) from None
    return arrays


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the storage values of an extension type (uuid, json, ...)."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def _is_text(kind: pa.DataType | None) -> bool:
    kind = kind.value_type if kind and pa.types.is_dictionary(kind) else kind
    return kind is not None and any(matches(kind) for matches in TEXT_TYPES)


FORMAT = Format(survey, read, read_from_end=True, random_access=True, isolated=True)
