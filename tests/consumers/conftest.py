"""Provides datasets as jobs leave them, side by side in one folder, and a Spark that works there."""

import datetime
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import s3fs

from pipeline.config.load import load_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests.consumers import corpora, java, page
from tests.flow import use_no_ray
from tests.models_with_heads import with_classes, with_tags
from tests.s3.server import environment, running_server

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"


def embed(folder: Path, *overrides: str, job: Path = Path("job.yaml"), night: int = 25) -> None:
    """Runs a job with a folder as the working directory."""
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        use_no_ray(patch)
        loaded = load_config(str(job), overrides, datetime.date(2026, 11, night))
        ending = run.run(loaded, quiet=True)
    assert ending.code == ExitCode.DONE, ending.reason


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's sections run: the articles, two nights of a series, other datasets."""
    folder = tmp_path_factory.mktemp("consumers")
    (folder / "job.yaml").write_text(page.job())
    shards = "output.rows_per_shard=10"
    corpora.write_articles(folder / "articles", 20)
    embed(folder, shards, night=24)
    corpora.write_articles(folder / "articles")
    embed(folder, shards)
    embed(folder, shards, "output.path=int8", "model.vector=int8")
    embed(folder, shards, "output.path=binary", "model.vector=binary")
    embed(folder, shards, "output.path=chunks", "model.long_text=chunks", "model.max_tokens=16")
    classifier = with_classes(folder / "classifier", ["news", "sport", "travel"])
    outputs = "model.outputs=[embedding, classification]"
    embed(folder, shards, "output.path=classes", f"model.name={classifier}", outputs)
    tagger = with_tags(folder / "tagger", ["O", "B-person", "I-person", "B-place", "I-place"])
    outputs = "model.outputs=[entities, tokens]"
    embed(folder, shards, "output.path=entities", f"model.name={tagger}", outputs)
    return folder


@pytest.fixture(scope="session")
def demo(folder: Path) -> Path:
    """The same folder, in which the demo's job has embedded docstrings, too."""
    corpora.write_docstrings(folder / ".demo" / "source")
    embed(folder, "output.rows_per_shard=500", job=DEMO)
    return folder


@pytest.fixture(scope="session")
def spark(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The session that `getOrCreate` finds; relative paths start at the folder of its Java."""
    from pyspark.sql import SparkSession

    java_home = java.home(tmp_path_factory.mktemp("java"))
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
    }
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("JAVA_HOME", str(java_home))
        session = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    yield session
    gateway = session.sparkContext._gateway
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()  # Java ends with its parent's pipe
    gateway.proc.wait(60)


@pytest.fixture
def bucket(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The page's bucket, with a copy of the series, on a server of its own."""
    with running_server(tmp_path_factory.mktemp("seaweed")) as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        store = s3fs.S3FileSystem(endpoint_url=url, skip_instance_cache=True)
        store.mkdir("my-bucket")
        store.put(str(folder / "embeddings"), "my-bucket/embeddings", recursive=True)
        yield


@pytest.fixture
def httpfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs DuckDB's S3 client from PyPI, as `INSTALL httpfs` would leave it."""
    import duckdb
    import duckdb_extension_httpfs

    monkeypatch.setenv("HOME", str(tmp_path))
    (file,) = Path(duckdb_extension_httpfs.__file__).parent.glob("extensions/*/httpfs.duckdb_extension")
    with duckdb.connect() as connection:
        connection.execute(f"INSTALL '{file}'")
