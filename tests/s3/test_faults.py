"""Tests storage behind a proxy that fails a fifth of all requests: results are exact, retries counted."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from pipeline.dataset.layout import Layout
from pipeline.errors import ExistsError, ReplacedError, StorageError
from pipeline.storage import retry, s3
from tests.s3.proxy import FAULTS, FaultProxy

KINDS = {fault: {fault: 0.2} for fault in FAULTS} | {"all": dict.fromkeys(FAULTS, 0.1)}
OBJECTS = 40
LEAST_PART, LARGE = 5 << 20, 11 << 20
"""The smallest part that S3 accepts."""
EACH_KIND = [pytest.param(kind, marks=[] if kind == "lose" else pytest.mark.full) for kind in KINDS]
"""A lost answer is what tells one store from another; the other kinds take longer."""


def content(number: int, size: int = 3000) -> bytes:
    return random.Random(number).randbytes(size)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_operation_is_exact(
    kind: str, bucket: str, proxy: FaultProxy, store: storage.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 1000)
    monkeypatch.setattr(s3, "FIRST_BYTES", 100)
    paths = [f"{bucket}/data/{number:03}" for number in range(OBJECTS)]
    proxy.faults = KINDS[kind]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: store.put_if_absent(paths[at], content(at)), range(OBJECTS)))

        def lose(at: int) -> None:
            with pytest.raises(ExistsError):
                store.put_if_absent(paths[at], content(-at - 1))

        list(pool.map(lose, range(OBJECTS)))
        assert list(pool.map(store.read, paths)) == [content(at) for at in range(OBJECTS)]

        def ranges(at: int) -> bytes:
            with store.open(paths[at]) as file:
                return bytes(file.read(234) + file.read(500) + file.read(500) + file.read())

        assert list(pool.map(ranges, range(OBJECTS))) == [content(at) for at in range(OBJECTS)]
    for found in (store.glob(f"{bucket}/data"), store.glob(f"{bucket}/da*/0*")):
        assert [info.path for info in found] == paths
    assert len(store.list_files(f"{bucket}/data")) == OBJECTS
    assert proxy.done[next(iter(KINDS[kind]))] > 20
    failed = sum(proxy.done[fault] for fault in FAULTS if fault != "stall")
    if kind in ("slow_down", "error"):
        assert telemetry.retries.total() == failed
    elif kind == "stall":
        assert not telemetry.retries
    else:  # aiohttp itself repeats a request once after a closed connection
        assert 0 < telemetry.retries.total() <= failed


@pytest.mark.parametrize("kind", EACH_KIND)
def test_large_objects_are_written_once_and_whole(
    kind: str, bucket: str, proxy: FaultProxy, store: storage.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MULTIPART_BYTES", LEAST_PART)
    monkeypatch.setattr(s3, "PART_BYTES", LEAST_PART)
    paths = [f"{bucket}/data/{number:03}" for number in range(4)]
    proxy.faults = KINDS[kind]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: store.put_if_absent(paths[at], content(at, LARGE)), range(4)))
        for at in range(4):
            with pytest.raises(ExistsError):
                store.put_if_absent(paths[at], content(-at - 1, LARGE))
        assert list(pool.map(store.read, paths)) == [content(at, LARGE) for at in range(4)]
    proxy.faults = {}
    store.abort_unfinished_uploads(f"{bucket}/data", bool)
    assert store.abort_unfinished_uploads(f"{bucket}/data", bool) == 0


@pytest.mark.parametrize("kind", EACH_KIND)
@pytest.mark.parametrize(("size", "rounds"), [(100, 12), (LARGE, 3)])
def test_each_replacement_takes_effect_once(
    kind: str,
    size: int,
    rounds: int,
    bucket: str,
    proxy: FaultProxy,
    store: storage.Storage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3, "MULTIPART_BYTES", LEAST_PART)
    monkeypatch.setattr(s3, "PART_BYTES", LEAST_PART)
    path, first = f"{bucket}/LATEST.json", None
    proxy.faults = KINDS[kind]
    for number in range(1, rounds):
        version = store.version(path)
        store.replace(path, content(number, size), version)
        with pytest.raises(ReplacedError):  # over the version before, and over no object
            store.replace(path, content(-number, size), version)
        with pytest.raises(ReplacedError):
            store.replace(path, content(-number, size), first)
        assert store.read(path) == content(number, size)


def test_a_lost_answer_is_told_from_a_rival(bucket: str, proxy: FaultProxy, store: storage.Storage) -> None:
    for name in ("put_if_absent", "replace"):
        path = f"{bucket}/{name}"
        arguments = (b"ours",) if name == "put_if_absent" else (b"ours", None)
        proxy.next = ["lose", "lose"]
        getattr(store, name)(path, *arguments)
        assert proxy.next == []
        assert store.read(path) == b"ours"
    proxy.next = ["lose"]
    with pytest.raises(ReplacedError):  # the same content, but another process wrote it
        store.replace(f"{bucket}/put_if_absent", b"ours", None)


def test_uploads_that_nobody_finished_are_swept(
    bucket: str, proxy: FaultProxy, store: storage.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = store.filesystem.call_s3("create_multipart_upload", Bucket=bucket[5:], Key="data/killed")
    store.filesystem.call_s3(
        "upload_part",
        Bucket=bucket[5:],
        Key="data/killed",
        UploadId=upload["UploadId"],
        PartNumber=1,
        Body=b"1",
    )
    store.filesystem.call_s3("create_multipart_upload", Bucket=bucket[5:], Key="database/other")
    assert store.abort_unfinished_uploads(f"{bucket}/data", bool) == 1
    assert store.abort_unfinished_uploads(f"{bucket}/data", bool) == 0
    assert store.abort_unfinished_uploads(f"{bucket}/database", bool) == 1
    monkeypatch.setattr(s3, "MULTIPART_BYTES", LEAST_PART)
    store.put(f"{bucket}/data/taken", b"1")
    with pytest.raises(ExistsError):
        store.put_if_absent(f"{bucket}/data/taken", bytes(LEAST_PART + 1))
    assert store.abort_unfinished_uploads(f"{bucket}/data", bool) == 0  # refused uploads were removed at once
    assert store.read(f"{bucket}/data/taken") == b"1"


def test_what_does_not_pass_is_given_up(
    bucket: str, proxy: FaultProxy, store: storage.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 2.0)
    proxy.faults = {"slow_down": 1.0}
    with pytest.raises(StorageError, match="Please try again.*run again"):
        store.read(f"{bucket}/a")
    assert set(telemetry.retries) == {"SlowDown"}


def test_a_server_that_says_nothing_is_asked_again(
    bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(s3.BOTOCORE, "read_timeout", 1)
    store = storage.connect(bucket, Options(endpoint_url=proxy.url))
    store.put(f"{bucket}/a", b"1")
    proxy.stall_seconds, proxy.next = 5, ["stall"]
    assert store.read(f"{bucket}/a") == b"1"
    assert telemetry.retries.total() == 1


def test_uploads_of_others_are_left_alone(bucket: str) -> None:
    """A dataset may lie at the root of a bucket, beside any objects, or have another one below it."""
    store, ours = storage.connect(bucket), Layout(bucket)
    for path in (ours.shard("a1"), ours.plan, f"{bucket}/backup.tar", Layout(f"{bucket}/other").shard("a1")):
        begin = {"Bucket": bucket.removeprefix("s3://"), "Key": path.removeprefix(f"{bucket}/")}
        store.filesystem.call_s3("create_multipart_upload", **begin)
    assert store.abort_unfinished_uploads(bucket, ours.is_ours) == 2
    assert store.abort_unfinished_uploads(bucket, bool) == 2
