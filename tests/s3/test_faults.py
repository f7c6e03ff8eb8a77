"""Tests storage behind a proxy that fails a fifth of all requests: results are exact, retries counted."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from pipeline.dataset.layout import Layout
from pipeline.errors import ExistsError, StorageError
from pipeline.storage import retry, s3
from tests.s3.proxy import FaultProxy
from tests.s3.under_faults import (
    EACH_KIND,
    KINDS,
    LARGE,
    LEAST_PART,
    content,
    lost_answers_are_told_from_rivals,
    operations_are_exact,
    replacements_take_effect_once,
)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_operation_is_exact(
    kind: str, bucket: str, proxy: FaultProxy, store: storage.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 1000)
    monkeypatch.setattr(s3, "FIRST_BYTES", 100)
    operations_are_exact(store, proxy, bucket, kind, objects=40)


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
    replacements_take_effect_once(store, proxy, bucket, kind, size, rounds)


def test_a_lost_answer_is_told_from_a_rival(bucket: str, proxy: FaultProxy, store: storage.Storage) -> None:
    lost_answers_are_told_from_rivals(store, proxy, bucket)


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
