"""Reads Parquet: files are cut between row groups, large groups also within; only needed columns are read.

The claims of a footer are checked before anything uses them. Nothing tells how much its pages expand to until
they are read: so they are read a few rows at a time, and within a limit of memory.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source.formats import bounds, memory, signatures
from pipeline.source.formats.compression import damage_named, first_line
from pipeline.source.formats.format import Format
from pipeline.source.formats.parquet_columns import (
    has_old_days,
    is_binary,
    is_text,
    readable,
    readable_columns,
    texts,
    told_schema,
    type_at,
    value_at,
)
from pipeline.source.formats.ranges import in_ranges
from pipeline.source.piece import Piece, RawRows, Span, Survey, named

BATCH_ROWS, BATCH_BYTES = 8192, 32 << 20
EXPANDING = {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}
"""Encodings in which a few bytes may stand for many, repeatedly."""
EXPANDING_ROWS = 2048
DECODING = 1 << 30
"""Bytes of memory for a batch, in addition to the pages that it comes from."""
SIGNATURE_BYTES = 28
"""Bytes that follow a footer that can be read although columns are encrypted: a nonce, and a tag."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz"}
"""The methods by which a file may be compressed as a whole, by its first bytes; its name does not matter."""
PARQUET, ENCRYPTED = b"PAR1", b"PARE"
"""The last bytes of a file; and those of one whose footer is encrypted, too."""


def survey(file: pa.NativeFile, _: str, size: int, source: Source) -> Survey:
    """Finds how the file can be cut; reads only its footer. A file without rows has no span.

    Raises:
        SourceError: it is not a Parquet file, its footer can't be true, or it lacks the text or id column.
    """
    parquet = open_footer(file, size)
    schema = told_schema(parquet, source)
    if not parquet.metadata.num_rows:
        spans_of(parquet, (), size)
        return Survey("rows", _columns_of_nothing(schema, source), ())
    _check_columns(schema, source)
    paths = (source.text_column or "", *source.fields.values())
    return Survey("rows", readable_columns(schema, source), spans_of(parquet, paths, size))


def open_footer(file: pa.NativeFile, size: int) -> pq.ParquetFile:
    """Reads the footer of a file.

    Raises:
        SourceError: it is not a Parquet file, or is encrypted.
    """
    end = _End(file, size)
    parquet = open_to_read(pa.PythonFile(end, mode="r"), size)
    _refuse_encrypted(end, parquet.metadata.serialized_size)
    return parquet


def spans_of(parquet: pq.ParquetFile, paths: Sequence[str], size: int) -> tuple[Span, ...]:
    """Returns a span for each row group, by the columns at some paths.

    Raises:
        SourceError: the footer can't be true.
    """
    leaves = _leaves(parquet, paths)
    _check_claims(parquet.metadata, leaves, size)
    return tuple(_spans(parquet.metadata, leaves))


def _check_columns(schema: pa.Schema, source: Source) -> None:
    """Checks that a file has the columns that the config needs.

    Raises:
        SourceError: it lacks one, or its text is not text.
    """
    names = schema.names
    for path in (source.text_column, *source.fields.values()):
        if path and names.count(path.split(".")[0]) > 1:
            raise SourceError("has a column twice", got=repr(path), hint="rename one of them")
    for path in (source.text_column, source.id_column):
        if path and type_at(schema, path) is None:
            raise SourceError(
                "has no such column",
                got=f"{path!r} among {named(names)}",
                hint="check text_column and id_column",
            )
    kind = type_at(schema, source.text_column or "")
    if not is_text(kind):
        hint = "name another text_column"
        if kind and is_binary(kind):
            hint += ", or set binary_as_string: true if its bytes are UTF-8"
        raise SourceError(f"column {source.text_column!r} is not text", got=str(kind), hint=hint)


def _columns_of_nothing(schema: pa.Schema, source: Source) -> pa.Schema:
    """Returns the columns of a file without rows as far as they can be carried; it never fails."""
    try:
        return readable_columns(schema, source)
    except SourceError:
        return pa.schema([])


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, _: pa.Schema) -> Iterator[RawRows]:
    """Yields the rows of each piece. Reads only the row groups that hold them, and each once.

    Raises:
        SourceError: the file is damaged.
    """
    parquet = open_to_read(file, pieces[0].size)
    columns = readable_columns(told_schema(parquet, source), source)
    paths = [source.fields[name] for name in columns.names]
    yield from read_columns(parquet, pieces, source.text_column, paths, columns)


def read_columns(
    parquet: pq.ParquetFile,
    pieces: Sequence[Piece],
    text: str | None,
    paths: Sequence[str],
    columns: pa.Schema,
) -> Iterator[RawRows]:
    """Yields the rows of each piece, as `read` does.

    Args:
        text: the path of the text; without one all texts are null.
        paths, columns: the paths of the other columns in the file, and their names and readable types.
    """
    known = [path for path in (text, *paths) if path]
    first, groups = _groups(parquet, pieces[0].start, pieces[-1].stop)
    rows, pages = _batch_size(parquet.metadata, groups, _leaves(parquet, known))
    with damage_named():
        batches = parquet.iter_batches(rows, row_groups=groups, columns=list(dict.fromkeys(known)))
        old_days = has_old_days(parquet.metadata)
        tables = _tables(batches, [text, *paths], columns, old_days, DECODING + pages)
        for piece, table in in_ranges(tables, pieces, first):
            faults = table.column(1).combine_chunks()
            yield RawRows(
                texts=table.column(0).combine_chunks(),
                columns=table.select(range(2, table.num_columns)) if columns.names else pa.table({}),
                positions=pa.array(np.arange(piece.start, piece.stop, dtype=np.int64)),
                start=piece.start,
                stop=piece.stop,
                faults=faults if pc.any(pc.not_equal(faults, "")).as_py() else None,
            )


def _tables(
    batches: Iterator[pa.RecordBatch],
    paths: Sequence[str | None],
    columns: pa.Schema,
    old_days: bool,
    most: int,
) -> Iterator[pa.Table]:
    """Yields the texts, faults and carried columns of each batch, in readable types, at their final size.

    Args:
        old_days: as `readable` takes it.  most: the most bytes of memory that a batch may take.
    """
    while True:
        with memory.at_most(most):
            batch = next(batches, None)
            if batch is None:
                return
            table = pa.Table.from_batches([batch])
            nothing = pa.chunked_array([pa.nulls(batch.num_rows, pa.large_string())])
            text, *others = (value_at(table, path) if path else nothing for path in paths)
            found = [readable(each, field, old_days) for each, field in zip(others, columns, strict=True)]
            faults = _faults(table.num_rows, [row for _, rows in found for row in rows])
            arrays = [texts(text), faults, *(column for column, _ in found)]
            table = pa.Table.from_arrays(arrays, names=["", "", *columns.names])
        yield table


def _faults(rows: int, misfits: Sequence[int]) -> pa.Array:
    """Returns why each row can't be read; empty if it can."""
    bad = np.zeros(rows, np.bool_)
    bad[list(misfits)] = True
    return pc.if_else(pa.array(bad), "carried_type", "")


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


def open_to_read(file: pa.NativeFile, size: int) -> pq.ParquetFile:
    """Opens a file whose footer was read before.

    Raises:
        SourceError: it is not a Parquet file.
    """
    try:
        # Spark's INT96 timestamps are read as microseconds: nanoseconds turn the year 9999 into 1816.
        return pq.ParquetFile(
            file, coerce_int96_timestamp_unit="us", pre_buffer=True, page_checksum_verification=True
        )
    except MemoryError:
        raise  # Arrow's is an `ArrowException`, too
    except (pa.ArrowException, OSError) as error:
        raise _unopened(file, size, error) from None


def _unopened(file: pa.NativeFile, size: int, error: Exception) -> SourceError:
    """Returns the error for a file that Arrow does not open, by its first and last bytes."""
    first, last = _bytes_at(file, 0, signatures.LONGEST), _bytes_at(file, max(0, size - 4), 4)
    if last == ENCRYPTED:
        return _encrypted("its footer, too")
    if isinstance(error, pa.ArrowNotImplementedError):
        return SourceError(
            "is a Parquet file that can't be read here",
            got=first_line(error),
            hint="write it without what is named here, or leave it out",
        )
    if method := next((name for start, name in COMPRESSED.items() if first.startswith(start)), None):
        return SourceError(
            "is a compressed Parquet file, which can't be read",
            got=method,
            hint="uncompress it: Parquet compresses its own pages",
        )
    if not first.startswith(PARQUET) and (other := signatures.known(first)):
        return SourceError(other[0], hint=other[1])
    return SourceError(
        "is not a complete Parquet file",
        got=f"{size} bytes: {first_line(error)}",
        hint="make it again, or leave it out",
    )


def _bytes_at(file: pa.NativeFile, position: int, size: int) -> bytes:
    file.seek(position)
    return bytes(file.read(size))


def _refuse_encrypted(end: "_End", footer: int) -> None:
    """Refuses a file with encrypted columns, before Arrow aborts this process at the first of them.

    Args:
        footer: the bytes of the footer without its signature.

    Raises:
        SourceError: the footer has a signature.
    """
    if int.from_bytes(end.last[:4], "little") - footer == SIGNATURE_BYTES:
        raise _encrypted("some of its columns")


def _encrypted(what: str) -> SourceError:
    hint = "write it without encryption: this program has no keys"
    return SourceError("is encrypted", got=what, hint=hint)


class _End(io.RawIOBase):
    """A file that keeps its last eight bytes once they are read: the size of the footer, and `PAR1`."""

    def __init__(self, file: pa.NativeFile, size: int) -> None:
        super().__init__()
        self.file, self.size, self.last = file, size, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self.file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        """Reads as the file itself does."""
        data = bytes(self.file.read(size))
        if self.file.tell() == self.size:
            self.last = data[-8:]
        return data


def _leaves(parquet: pq.ParquetFile, paths: Sequence[str]) -> list[int]:
    """Returns the numbers of the columns at some paths, as the file counts them."""
    wanted = tuple(f"{path}." for path in paths)
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


FORMAT = Format(survey, read, read_from_end=True, random_access=True, isolated=True)
