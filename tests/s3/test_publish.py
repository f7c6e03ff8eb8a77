"""Tests tables over shards on object storage: a log beside the series, and catalogs of SQL and REST."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, storage
from pipeline.errors import ExitCode
from pipeline.nightly import Series
from tests.publish import nights
from tests.publish.conftest import made, refresh_configuration
from tests.publish.nights import NAMES
from tests.s3.server import KEY, SECRET, Server, environment

__all__ = ["made"]


@pytest.fixture
def series(bucket: str, made: Path) -> str:
    """Returns the URL of a copy of the series."""
    return copied(made, bucket)


def copied(made: Path, bucket: str) -> str:
    store = storage.connect(bucket)
    root = made.parent / "series"
    for path in sorted(root.rglob("*")):
        if path.is_file():
            store.put(f"{bucket}/series/{path.relative_to(root)}", path.read_bytes())
    return f"{bucket}/series"


@pytest.fixture
def options(credentials: str) -> dict[str, str]:
    """Returns the options with which libraries reach the server."""
    return {**environment(credentials), "AWS_ALLOW_HTTP": "true"}


def describe(patch: pytest.MonkeyPatch, **properties: str) -> None:
    """Describes the catalog to pyiceberg."""
    for name, value in properties.items():
        patch.setenv(f"PYICEBERG_CATALOG__{nights.CATALOG.upper()}__{name}", value)
    refresh_configuration(patch)


def assert_follows(kind: str, series: str, config: Path, options: dict[str, str]) -> None:
    """Publishes three nights, goes back to the first, and on to the last; every engine reads each."""
    followed = Series(series)
    for name in (*NAMES, NAMES[0], NAMES[2]):
        followed.rollback(name)
        assert cli.main(["publish", str(config), "--quiet"]) == ExitCode.DONE
        filesystem = storage.connect(series).filesystem
        wanted = nights.of_dataset(f"{series}/{name}".removeprefix("s3://"), filesystem)
        nights.assert_reads(kind, series, wanted, options)


def test_a_delta_table_beside_the_series(
    series: str, made: Path, tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deltalake")
    config = nights.config_at(made, tmp_path, series, "delta")
    # The output's options alone name the server.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    values = json.loads(config.read_text())
    values["output"]["options"] = {"endpoint_url": options["AWS_ENDPOINT_URL"]}
    config.write_text(json.dumps(values))
    assert cli.main(["publish", str(config), "--dataset", NAMES[1], "--quiet"]) == ExitCode.DONE
    monkeypatch.setenv("AWS_ENDPOINT_URL", options["AWS_ENDPOINT_URL"])
    assert_follows("delta", series, config, options)


def test_an_iceberg_table_of_an_sql_catalog(
    series: str,
    bucket: str,
    made: Path,
    tmp_path: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pyiceberg")
    describe(
        monkeypatch,
        URI=f"sqlite:///{tmp_path}/catalog.db",
        WAREHOUSE=f"{bucket}/warehouse",
        S3__ENDPOINT=options["AWS_ENDPOINT_URL"],
    )
    assert_follows("iceberg", series, nights.config_at(made, tmp_path, series, "iceberg"), options)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yields a server of its own, with a warehouse for its Iceberg catalog, as the environment names it."""
    found = Server(tmp_path)
    try:
        found.start()
        found.make_warehouse("warehouse")
        for name, value in environment(found.url).items():
            monkeypatch.setenv(name, value)
        storage._connect.cache_clear()
        yield found
    finally:
        found.kill()
        storage._connect.cache_clear()


@pytest.mark.full
def test_an_iceberg_table_of_a_rest_catalog(
    server: Server, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyiceberg")
    describe(
        monkeypatch,
        TYPE="rest",
        URI=server.catalog,
        CREDENTIAL=f"{KEY}:{SECRET}",
        WAREHOUSE="s3://warehouse/",
        S3__ENDPOINT=server.url,
    )
    storage.connect("s3://corpus").filesystem.mkdir("s3://corpus")
    series = copied(made, "s3://corpus")
    options = {**environment(server.url), "AWS_ALLOW_HTTP": "true"}
    assert_follows("iceberg", series, nights.config_at(made, tmp_path, series, "iceberg"), options)
