"""The seam behind a proxy that fails a fifth of all requests: exact results, soon, retries counted."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage, telemetry
from pipeline.errors import ExistsError
from pipeline.places import Options
from pipeline.storage import s3
from tests.s3.proxy import FAULTS, FaultProxy, fault_proxy

KINDS = {fault: {fault: 0.2} for fault in FAULTS} | {"all": dict.fromkeys(FAULTS, 0.1)}
OBJECTS = 40


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server, seed=7, stall_seconds=0.2) as running:
        yield running


@pytest.fixture
def store(bucket: str, proxy: FaultProxy) -> storage.Storage:
    return storage.connect(bucket, Options(endpoint_url=proxy.url))


def content(number: int, size: int = 3000) -> bytes:
    return random.Random(number).randbytes(size)


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_is_exact(
    kind: str, bucket: str, proxy: FaultProxy, store: storage.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 1000)
    paths = [f"{bucket}/data/{number:03}" for number in range(OBJECTS)]
    proxy.faults = KINDS[kind]
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: store.put_if_absent(paths[at], content(at)), range(OBJECTS)))

        def lose(at: int) -> None:
            with pytest.raises(ExistsError):
                store.put_if_absent(paths[at], content(-at - 1))

        list(pool.map(lose, range(OBJECTS)))
        assert list(pool.map(store.read, paths)) == [content(at) for at in range(OBJECTS)]

        def ranges(at: int) -> bytes:
            with store.open(paths[at]) as file:
                first = file.read(1234)
                return bytes(first + file.read())

        assert list(pool.map(ranges, range(OBJECTS))) == [content(at) for at in range(OBJECTS)]
    for found in (store.find(f"{bucket}/data"), store.find(f"{bucket}/da*/0*")):
        assert [info.path for info in found] == paths
    assert len(store.folder(f"{bucket}/data")) == OBJECTS
    assert time.monotonic() - started < 60
    assert proxy.done[next(iter(KINDS[kind]))] > 20
    failed = sum(proxy.done[fault] for fault in FAULTS if fault != "stall")
    if kind in ("slow_down", "error"):
        assert telemetry.retries.total() == failed
    elif kind == "stall":
        assert not telemetry.retries
    else:  # aiohttp itself sends a request again, once, that met a closed connection
        assert 0 < telemetry.retries.total() <= failed
