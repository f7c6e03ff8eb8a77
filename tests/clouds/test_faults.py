"""Tests every store behind a proxy that fails a fifth of all requests: results are exact, retries counted."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import telemetry
from pipeline.errors import ExistsError, ReplacedError
from tests.clouds.places import Place, read_in_parts, write_in_parts
from tests.clouds.test_contract import LARGE, LEAST_PART, content
from tests.s3.proxy import FAULTS
from tests.s3.test_faults import EACH_KIND, KINDS

OBJECTS = 20


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_operation_is_exact(kind: str, served: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in_parts(monkeypatch, part=1000, first=100)
    store, proxy = served.faulty, served.proxy
    paths = [f"{served.root}/data/{number:03}" for number in range(OBJECTS)]
    assert proxy
    proxy.faults = KINDS[kind]

    def write(at: int) -> None:
        store.put_if_absent(paths[at], content(at))
        with pytest.raises(ExistsError):
            store.put_if_absent(paths[at], content(-at - 1))

    def ranges(at: int) -> bytes:
        with store.open(paths[at]) as file:
            return bytes(file.read(234) + file.read(500) + file.read(500) + file.read())

    wanted = [content(at) for at in range(OBJECTS)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(OBJECTS)))
        assert list(pool.map(store.read, paths)) == wanted
        assert list(pool.map(ranges, range(OBJECTS))) == wanted
    for found in (store.glob(f"{served.root}/data"), store.glob(f"{served.root}/da*/0*")):
        assert [info.path for info in found] == paths
    assert len(store.list_files(f"{served.root}/data")) == OBJECTS
    assert proxy.done[next(iter(KINDS[kind]))] > 10
    failed = sum(proxy.done[fault] for fault in FAULTS if fault != "stall")
    if kind in ("slow_down", "error"):
        assert telemetry.retries.total() == failed
    elif kind == "stall":
        assert not telemetry.retries
    else:  # some libraries repeat a request themselves after a closed connection
        assert 0 < telemetry.retries.total() <= failed


@pytest.mark.parametrize("kind", EACH_KIND)
@pytest.mark.parametrize(("size", "rounds"), [(100, 8), (LARGE, 3)])
def test_each_replacement_takes_effect_once(
    kind: str, size: int, rounds: int, served: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_in_parts(monkeypatch, LEAST_PART)
    store, path, first = served.faulty, f"{served.root}/LATEST.json", None
    assert served.proxy
    served.proxy.faults = KINDS[kind]
    for number in range(1, rounds):
        version = store.version(path)
        store.replace(path, content(number, size), version)
        with pytest.raises(ReplacedError):  # over the version before, and over no object
            store.replace(path, content(-number, size), version)
        with pytest.raises(ReplacedError):
            store.replace(path, content(-number, size), first)
        assert store.read(path) == content(number, size)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_copy_is_exact(kind: str, served: Place) -> None:
    store, root, count = served.faulty, served.root, 10
    for number in range(count):
        served.store().put(f"{root}/from/{number}", content(number))
    assert served.proxy
    served.proxy.faults = KINDS[kind]

    def copy(number: int) -> bytes:
        store.copy_if_absent(f"{root}/from/{number}", f"{root}/to/{number}")
        with pytest.raises(ExistsError):
            store.copy_if_absent(f"{root}/from/{number}", f"{root}/from/{(number + 1) % count}")
        return store.read(f"{root}/to/{number}")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy, range(count))) == [content(number) for number in range(count)]


def test_a_lost_answer_is_told_from_a_rival(served: Place) -> None:
    store, proxy = served.faulty, served.proxy
    assert proxy
    for name, arguments in {"put_if_absent": (b"ours",), "replace": (b"ours", None)}.items():
        path = f"{served.root}/{name}"
        proxy.next = ["lose", "lose"]
        getattr(store, name)(path, *arguments)
        assert proxy.next == []
        assert store.read(path) == b"ours"
    proxy.next = ["lose"]
    with pytest.raises(ReplacedError):  # the same content, but another process wrote it
        store.replace(f"{served.root}/put_if_absent", b"ours", None)


def test_a_lost_answer_is_a_copy_all_the_same(served: Place) -> None:
    store, proxy = served.faulty, served.proxy
    assert proxy
    store.put(f"{served.root}/source", b"content")
    looks = ["pass"] if served.kind == "s3" else ["pass", "pass"]
    proxy.next = [*looks, "lose", "lose"]
    store.copy_if_absent(f"{served.root}/source", f"{served.root}/target")
    assert proxy.next == []
    assert store.read(f"{served.root}/target") == b"content"
