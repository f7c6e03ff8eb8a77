"""Fixtures: one S3 server for the tests of this folder, a bucket for each, and a proxy that misbehaves."""

import uuid
from collections.abc import Iterator

import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from tests.s3.proxy import FaultProxy, fault_proxy
from tests.s3.server import environment, running_server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the URL of the server."""
    with running_server(tmp_path_factory.mktemp("seaweed")) as url:
        yield url


@pytest.fixture
def credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sets the environment that a user would set; returns the server's URL."""
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def bucket(credentials: str) -> Iterator[str]:
    """Yields a new bucket, and drops cached storages of earlier tests."""
    storage._connect.cache_clear()
    telemetry.retries.clear()
    name = f"s3://b{uuid.uuid4().hex[:8]}"
    storage.connect(name).filesystem.mkdir(name)
    yield name
    storage._connect.cache_clear()


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server, seed=7, stall_seconds=0.2) as running:
        yield running


@pytest.fixture
def store(bucket: str, proxy: FaultProxy) -> storage.Storage:
    """Returns the bucket's storage, behind the proxy."""
    return storage.connect(bucket, Options(endpoint_url=proxy.url))
