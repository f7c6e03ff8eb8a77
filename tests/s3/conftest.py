"""One S3 server for the tests of this folder, buckets of their own, and a proxy that misbehaves."""

import uuid
from collections.abc import Iterator

import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from tests.s3.proxy import FaultProxy, fault_proxy
from tests.s3.server import environment, running_server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the server."""
    with running_server(tmp_path_factory.mktemp("seaweed")) as url:
        yield url


@pytest.fixture
def credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment that a user would set; the server's URL."""
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def bucket(credentials: str) -> Iterator[str]:
    """A new bucket, and storages that know nothing of the tests before."""
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
    """The bucket's storage, behind the proxy."""
    return storage.connect(bucket, Options(endpoint_url=proxy.url))
