"""Runs docs/library.md, and checks that a job, Ray and Spark give the same vectors."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.config.load import parse_config
from pipeline.driver.run import run
from tests.conftest import read_dataset
from tests.consumers import java
from tests.library import page

Job = Callable[..., dict[str, Any]]
here = pytest.mark.parametrize("flow", ["here"], indirect=True)


@pytest.fixture
def spark(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The session that `getOrCreate` finds; that of other tests, if there is one."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    before = SparkSession.getActiveSession()
    monkeypatch.setenv("JAVA_HOME", str(java.home(tmp_path_factory.mktemp("java"))))
    local = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    settings = local | {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "1"}
    session = before or SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
    monkeypatch.setattr(session.sparkContext, "pythonExec", sys.executable)
    yield session
    if before:
        return
    gateway = session.sparkContext._gateway
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()  # Java ends with its parent's pipe
    gateway.proc.wait(60)
    SparkContext._gateway = SparkContext._jvm = None  # so that another test can start one


def test_every_section_is_run() -> None:
    assert page.headings() == ["In a notebook", "Ray Data", "Spark", "A whole job"]
    names = set(pipeline.__all__) - {"__version__"}
    assert all(f"`{name}`" in page.TEXT for name in names)


def test_in_a_notebook(tmp_path: Path) -> None:
    page.run("In a notebook", tmp_path)


@here
def test_a_whole_job(tmp_path: Path, flow: None) -> None:
    page.run("A whole job", tmp_path)


@pytest.mark.full
def test_ray_data(tmp_path: Path, ray_cluster: None) -> None:
    rows = page.run("Ray Data", tmp_path)["rows"]
    assert [row["number"] for row in rows] == list(range(20))
    _same(np.stack([row["embedding"] for row in rows]), [row["body"] for row in rows])


@pytest.mark.full
def test_spark(tmp_path: Path, spark: Any) -> None:
    found = page.run("Spark", tmp_path)["in_spark"]
    vectors = np.array(found.column("embedding").to_pylist(), np.float32)
    _same(vectors, found.column("body").to_pylist())


def _same(vectors: npt.NDArray[np.float32], texts: list[str]) -> None:
    assert np.abs(vectors - pipeline.Embedder("albert-mini", threads=1).embed(texts)).max() < 1e-5


@pytest.mark.full
@pytest.mark.parametrize("flow", ["on Ray"], indirect=True)
def test_a_job_ray_data_and_spark_give_the_same(
    job: Job, corpus: Path, tiny: Path, flow: None, spark: Any
) -> None:
    """Each embeds the corpus in its own micro-batches and threads, so the last bits may differ."""
    import ray

    settings = {"prefix": "of: ", "truncate_dim": 8}
    values = job(output={"rows_per_shard": 100}, model={"name": str(tiny), **settings})
    run(parse_config(values), quiet=True)
    wanted = read_dataset(values["output"]["path"])
    options = pipeline.ray_options(str(tiny), batch_size=100, **settings)
    table = pq.read_table(corpus)
    by_ray = ray.data.from_arrow(table).map_batches(pipeline.RayEmbedder, **options).take_all()
    embedder = pipeline.SparkEmbedder(str(tiny), **settings)
    frame = spark.createDataFrame(table.to_pandas()).coalesce(1)
    by_spark = embedder.add_to(frame).orderBy("key").toArrow()
    assert by_spark.column_names == [*table.column_names, "embedding", "reject"]
    for rows in (by_ray, by_spark.to_pylist()):
        assert [row["key"] for row in rows] == wanted["key"].to_pylist()
        vectors = np.array([row["embedding"] for row in rows], np.float32)
        assert np.abs(vectors - np.stack(wanted["embedding"].to_pylist())).max() < 1e-6
