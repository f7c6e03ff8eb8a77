"""Tests that the data files of a table are never taken for its rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage, telemetry
from pipeline.config.source import Source
from pipeline.errors import ConfigError
from pipeline.source.tables.refusal import refuse_tables

LOGS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Hudi": ".hoodie/hoodie.properties",
    "Iceberg": "metadata/v2.metadata.json",
}
WHAT_TO_DO = {
    "Delta": "set format: delta and path: .*/table",
    "Hudi": "write the rows",
    "Iceberg": "set format: iceberg and path: .*/table",
}
PATTERNS = (
    "table", "table/*.parquet", "table/date=1/*.parquet", "table/*/part-0.parquet", "**/*.parquet",
    "table/date=1/part-0.parquet", "*/date=1/*.parquet", "table/date=1",
)  # fmt: skip


def refuse(root: str, pattern: str, **settings: object) -> None:
    source = Source(path=f"{root}/{pattern}", format="parquet", **settings)
    found = storage.connect(root, source.options).search(source.path, source.hidden)
    refuse_tables("docs", source, found)


def table(folder: Path, kind: str) -> None:
    """Makes a table of a kind: two data files, one of them in a partition, and the table's log."""
    for name in ("part-0.parquet", "date=1/part-0.parquet", LOGS[kind]):
        path = folder / "table" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": ["a"]}), path)


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_table_is_refused_by_its_name(tmp_path: Path, kind: str, pattern: str) -> None:
    table(tmp_path, kind)
    with pytest.raises(
        ConfigError, match=rf"docs: {tmp_path}/table: is an? {kind} table: .* {WHAT_TO_DO[kind]}"
    ):
        refuse(str(tmp_path), pattern)


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_table_in_object_storage_is_refused(kind: str, pattern: str) -> None:
    memory = MemoryFileSystem()
    for name in ("part-0.parquet", "date=1/part-0.parquet", LOGS[kind]):
        memory.pipe_file(f"/lake/table/{name}", b"x")
    try:
        with pytest.raises(ConfigError, match=f"is an? {kind} table"):
            refuse("memory://lake", pattern)
    finally:
        memory.rm("/lake", recursive=True)


def test_a_table_beside_the_files_is_none_of_them(tmp_path: Path) -> None:
    table(tmp_path, "Delta")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    refuse(str(tmp_path), "*.parquet")


def test_other_formats_are_no_table(tmp_path: Path) -> None:
    table(tmp_path, "Delta")
    (tmp_path / "table/readme.md").write_text("text")
    source = Source(path=f"{tmp_path}/**/*.md", format="text-files")
    refuse_tables("docs", source, storage.connect(source.path).search(source.path))


def test_many_partitions_cost_few_requests(tmp_path: Path) -> None:
    for number in range(300):
        path = tmp_path / f"date={number}" / "part-0.parquet"
        path.parent.mkdir()
        path.touch()
    before = telemetry.requests.total()
    refuse(str(tmp_path), "*/*.parquet")
    assert telemetry.requests.total() - before < 220
