"""Tests of copies within a bucket, on a real server: one version, under a condition, made by the server."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage
from pipeline.config.location import Options
from pipeline.errors import DeniedError, ExistsError, MissingError, ReplacedError
from pipeline.storage import s3
from tests.s3.proxy import FaultProxy
from tests.s3.server import READER, READER_SECRET
from tests.s3.under_faults import EACH_KIND, LARGE, LEAST_PART, content, copies_are_exact


@pytest.fixture(params=[3000, LARGE], ids=["at once", "in parts"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Returns the size of the object to copy; the limits are lowered to the least that S3 accepts."""
    monkeypatch.setattr(s3, "COPY_BYTES", LEAST_PART)
    monkeypatch.setattr(s3, "COPY_PART_BYTES", LEAST_PART)
    return int(request.param)


def test_a_copy_is_the_same_and_its_bytes_stay_there(
    size: int, bucket: str, proxy: FaultProxy, store: storage.Storage
) -> None:
    source, target = f"{bucket}/a/ä +%=&?#source", f"{bucket}/b/ä +%=&?#target"
    storage.connect(bucket).put(source, content(1, size))
    store.copy_if_absent(source, target)
    store.copy_if_absent(source, target)
    assert proxy.bytes < 20_000
    assert store.read(target) == content(1, size)
    assert store.filesystem.nonce(target) == store.filesystem.nonce(source) != ""


def test_a_copy_is_never_over_another(size: int, bucket: str) -> None:
    store, source, target = storage.connect(bucket), f"{bucket}/source", f"{bucket}/target"
    store.put(source, content(1, size))
    for other in (content(2, size), b"short"):
        store.put(target, other)
        with pytest.raises(ExistsError, match=f"{target}: exists already"):
            store.copy_if_absent(source, target)
        assert store.read(target) == other
    store.put(target, content(1, size))  # from another write, but with the same content
    store.copy_if_absent(source, target)
    assert store.abort_unfinished_uploads(bucket, bool) == 0


def test_what_is_not_there_is_not_copied(bucket: str) -> None:
    store = storage.connect(bucket)
    with pytest.raises(MissingError, match=f"{bucket}/source: does not exist"):
        store.copy_if_absent(f"{bucket}/source", f"{bucket}/target")
    assert not store.exists(f"{bucket}/target")


@pytest.mark.parametrize("then", ["replaced", "removed"])
def test_a_source_that_changes_meanwhile_is_not_copied(size: int, then: str, bucket: str) -> None:
    store, source, target = storage.connect(bucket), f"{bucket}/source", f"{bucket}/target"
    store.put(source, content(1, size))
    planned = store.info(source)

    class Late(s3.S3Storage):
        """A storage that inspects the source, and copies after the source was replaced."""

        def _copy(self, found: storage.ObjectInfo, where: str) -> None:
            assert found == planned
            store.put(source, content(2, size)) if then == "replaced" else store.remove(source)
            super()._copy(found, where)

    with pytest.raises(ReplacedError if then == "replaced" else MissingError, match=source):
        Late(store.filesystem).copy_if_absent(source, target)
    assert not store.exists(target)
    assert store.abort_unfinished_uploads(bucket, bool) == 0


def test_of_many_copiers_one_source_wins(bucket: str) -> None:
    """This uses copies in one request: the server checks a condition before it joins parts, not during."""
    store, target = storage.connect(bucket), f"{bucket}/target"
    sources = [f"{bucket}/source{number}" for number in range(2)]
    for number, source in enumerate(sources):
        store.put(source, content(number))

    def race(number: int) -> bool:
        try:
            store.copy_if_absent(sources[number % 2], target)
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        won = list(pool.map(race, range(10)))
    assert won in ([True, False] * 5, [False, True] * 5)
    assert store.read(target) == content(won.index(True))


def test_a_lost_answer_is_a_copy_all_the_same(bucket: str, proxy: FaultProxy, store: storage.Storage) -> None:
    store.put(f"{bucket}/source", b"content")
    proxy.next = ["pass", "lose", "lose"]  # the request for the source's info is answered
    store.copy_if_absent(f"{bucket}/source", f"{bucket}/target")
    assert proxy.next == []
    assert store.read(f"{bucket}/target") == b"content"


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_copy_is_exact_under_faults(
    kind: str, size: int, bucket: str, proxy: FaultProxy, store: storage.Storage
) -> None:
    contents = [content(number, size) for number in range(20 if size < LARGE else 3)]
    for number, each in enumerate(contents):
        storage.connect(bucket).put(f"{bucket}/from/{number}", each)
    copies_are_exact(store, proxy, bucket, kind, contents)
    proxy.faults = {}
    store.abort_unfinished_uploads(f"{bucket}/to", bool)
    assert store.abort_unfinished_uploads(f"{bucket}/to", bool) == 0


def test_who_may_only_read_copies_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.connect(bucket).put(f"{bucket}/source", random.Random(1).randbytes(10))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    reader = storage.connect(bucket, Options(region="us-east-1"))
    with pytest.raises(DeniedError, match=f"{bucket}/target: access denied"):
        reader.copy_if_absent(f"{bucket}/source", f"{bucket}/target")


def test_remove(bucket: str) -> None:
    store = storage.connect(bucket)
    store.put(f"{bucket}/a", b"1")
    store.remove(f"{bucket}/a")
    store.remove(f"{bucket}/a")
    assert not store.exists(f"{bucket}/a")
