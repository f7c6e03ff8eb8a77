"""Tests that every type of Arrow is carried so that all readers take it, or refused by its name."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source.formats import parquet
from pipeline.source.piece import Piece
from tests.source.formats import arrow_types

REFUSED = ("decimal256", "struct by case")
NOT_IN_PARQUET = ("interval", "empty struct", "run-end encoded", "union")
SOURCE = Source(path="x.parquet", carry=("x",))


def carried() -> Iterator[tuple[str, pa.ChunkedArray, pa.ChunkedArray]]:
    """Yields each type that is not refused by name: as a file has it, and as the shards have it."""
    for name, array in arrow_types.columns():
        sink = pa.BufferOutputStream()
        table = pa.table({"text": ["a", "b", "c"], "x": array})
        try:
            pq.write_table(table, sink)
        except pa.ArrowNotImplementedError:
            assert name.endswith((*NOT_IN_PARQUET, "string_view", "binary_view")), name
            continue
        data = sink.getvalue()
        try:
            found = parquet.survey(pa.BufferReader(data), "x.parquet", data.size, SOURCE)
        except SourceError as error:
            assert name.endswith(REFUSED), name
            assert "column 'x' has a type that some readers refuse" in str(error)
            continue
        assert not name.endswith(REFUSED), name
        piece = Piece("docs", "x.parquet", "1", data.size, "rows", 0, 3)
        [raw] = parquet.read(pa.BufferReader(data), [piece], SOURCE, found.columns)
        yield name, pq.read_table(pa.BufferReader(data)).column("x"), raw.columns.column("x")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a column for each type, as a shard has it; each is checked against its source."""
    columns = {}
    for name, there, here in carried():
        assert arrow_types.plain(here.to_pylist()) == arrow_types.plain(there.to_pylist()), name
        columns[name] = here
    assert len(columns) > 600
    path = tmp_path_factory.mktemp("types") / "part-0.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def same(found: pa.Table, shard: Path) -> None:
    """Checks that a reader found every value of the shard."""
    wanted = pq.read_table(shard)
    assert found.column_names == wanted.column_names
    for name in wanted.column_names:
        read, written = found.column(name).to_pylist(), wanted.column(name).to_pylist()
        assert arrow_types.plain(read) == arrow_types.plain(written), name


def test_pyarrow_reads_every_type(shard: Path) -> None:
    same(pq.read_table(shard), shard)


def test_duckdb_reads_every_type(shard: Path) -> None:
    with duckdb.connect() as connection:
        same(connection.sql(f"SELECT * FROM '{shard}'").to_arrow_table(), shard)


def test_polars_reads_every_type(shard: Path) -> None:
    same(polars.read_parquet(shard).to_arrow(), shard)


def test_a_view_of_lists_keeps_its_values() -> None:
    views = pa.array([[1, 2], None, [3]], pa.list_view(pa.int32()))
    from pipeline.source.formats.parquet_columns import readable

    for array, kind in (
        (views, pa.list_(pa.int32())),
        (arrow_types.in_struct(views), pa.struct({"of": pa.list_(pa.int32())})),
        (arrow_types.in_map(views), pa.map_(pa.string(), pa.list_(pa.int32()))),
        (arrow_types.in_list(views), pa.list_(pa.list_(pa.int32()))),
    ):
        got, _ = readable(pa.chunked_array([array]), pa.field("x", kind))
        assert got.type == kind
        assert got.to_pylist() == array.to_pylist()
