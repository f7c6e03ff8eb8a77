"""Tests with Spark what other tests show with other readers: carried types, and files that Spark writes."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests.conftest import read_dataset
from tests.flow import use_no_ray
from tests.source.formats import arrow_types
from tests.source.formats.test_arrow_types import carried

pytestmark = pytest.mark.full


def test_spark_reads_every_carried_type(spark: Any, tmp_path: Path) -> None:
    columns = {f"c{number}": here for number, (_, _, here) in enumerate(carried())}
    pq.write_table(pa.table(columns), tmp_path / "part-0.parquet", compression="zstd")
    found = spark.read.parquet(str(tmp_path / "part-0.parquet")).toArrow()
    for name, here in columns.items():
        read = arrow_types.plain(found.column(name).to_pylist())
        assert read == arrow_types.plain(here.to_pylist()), (name, here.type)


@pytest.fixture
def embedded(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns a function that embeds a folder that Spark wrote, and returns the shards and the summary."""
    use_no_ray(monkeypatch)

    def embed(folder: Path, **source: Any) -> tuple[pa.Table, Any]:
        values = {
            "source": {"docs": {"path": str(folder), "format": "parquet", **source}},
            "model": {"name": str(tiny)},
            "output": {"path": str(tmp_path / "out")},
        }
        ending = run.run(parse_config(values), quiet=True)
        assert ending.code == ExitCode.DONE, ending.reason
        return read_dataset(tmp_path / "out"), ending.summary

    yield embed


def test_what_spark_writes_by_default(spark: Any, tmp_path: Path, embedded: Any) -> None:
    rows = [(1, "a text", "0", datetime.datetime(2026, 7, 1, 12)), (2, "another", "1", None)]
    frame = spark.createDataFrame(rows, "id INT, text STRING, _tenant STRING, at TIMESTAMP")
    frame.write.partitionBy("_tenant").parquet(str(tmp_path / "in"))
    found, summary = embedded(tmp_path / "in", carry=["at"], partitions=["_tenant"], id_column="id")
    assert found.select(["id", "_tenant"]).to_pylist() == [
        {"id": 1, "_tenant": "0"},
        {"id": 2, "_tenant": "1"},
    ]
    assert found.schema.field("at").type == pa.timestamp("us", "UTC")
    assert summary["passed_over"]["docs"]["hidden"] >= 1  # _SUCCESS and checksums
    ours = spark.read.parquet(str(tmp_path / "out/data"))
    assert ours.join(frame, ["id", "at"]).count() == 1
