"""Checks that operations of a store are exact behind a proxy that fails some of the requests."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import telemetry
from pipeline.errors import ExistsError, ReplacedError
from pipeline.storage import Storage
from tests.s3.proxy import FAULTS, FaultProxy

KINDS = {fault: {fault: 0.2} for fault in FAULTS} | {"all": dict.fromkeys(FAULTS, 0.1)}
EACH_KIND = [pytest.param(kind, marks=[] if kind == "lose" else pytest.mark.full) for kind in KINDS]
"""A lost answer is what tells one store from another; the other kinds take longer."""
LEAST_PART, LARGE = 5 << 20, 11 << 20
"""The smallest part that S3 accepts, and what needs three of them."""


def content(number: int, size: int = 3000) -> bytes:
    return random.Random(number).randbytes(size)


def operations_are_exact(store: Storage, proxy: FaultProxy, root: str, kind: str, objects: int) -> None:
    """Writes objects from several threads, each once, and reads and lists them."""
    paths = [f"{root}/data/{number:03}" for number in range(objects)]
    wanted = [content(at) for at in range(objects)]
    proxy.faults = KINDS[kind]

    def lose(at: int) -> None:
        with pytest.raises(ExistsError):
            store.put_if_absent(paths[at], content(-at - 1))

    def ranges(at: int) -> bytes:
        with store.open(paths[at]) as file:
            return bytes(file.read(234) + file.read(500) + file.read(500) + file.read())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: store.put_if_absent(paths[at], content(at)), range(objects)))
        list(pool.map(lose, range(objects)))
        assert list(pool.map(store.read, paths)) == wanted
        assert list(pool.map(ranges, range(objects))) == wanted
    for found in (store.glob(f"{root}/data"), store.glob(f"{root}/da*/0*")):
        assert [info.path for info in found] == paths
    assert len(store.list_files(f"{root}/data")) == objects
    assert proxy.done[next(iter(KINDS[kind]))] > objects // 2
    failed = sum(proxy.done[fault] for fault in FAULTS if fault != "stall")
    if kind in ("slow_down", "error"):
        assert telemetry.retries.total() == failed
    elif kind == "stall":
        assert not telemetry.retries
    else:  # some libraries repeat a request themselves after a closed connection
        assert 0 < telemetry.retries.total() <= failed


def replacements_take_effect_once(
    store: Storage, proxy: FaultProxy, root: str, kind: str, size: int, rounds: int
) -> None:
    """Replaces an object again and again, and in vain over other versions."""
    path, first = f"{root}/LATEST.json", None
    proxy.faults = KINDS[kind]
    for number in range(1, rounds):
        version = store.version(path)
        store.replace(path, content(number, size), version)
        with pytest.raises(ReplacedError):  # over the version before, and over no object
            store.replace(path, content(-number, size), version)
        with pytest.raises(ReplacedError):
            store.replace(path, content(-number, size), first)
        assert store.read(path) == content(number, size)


def copies_are_exact(
    store: Storage, proxy: FaultProxy, root: str, kind: str, contents: Sequence[bytes]
) -> None:
    """Copies the objects below `from`, which have these contents, and in vain onto one another."""
    proxy.faults = KINDS[kind]

    def copy(number: int) -> bytes:
        store.copy_if_absent(f"{root}/from/{number}", f"{root}/to/{number}")
        with pytest.raises(ExistsError):
            store.copy_if_absent(f"{root}/from/{number}", f"{root}/from/{(number + 1) % len(contents)}")
        return store.read(f"{root}/to/{number}")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy, range(len(contents)))) == list(contents)


def lost_answers_are_told_from_rivals(store: Storage, proxy: FaultProxy, root: str) -> None:
    """Loses the answers of writes: they count as ours, and a rival's do not."""
    for name, arguments in {"put_if_absent": (b"ours",), "replace": (b"ours", None)}.items():
        path = f"{root}/{name}"
        proxy.next = ["lose", "lose"]
        getattr(store, name)(path, *arguments)
        assert proxy.next == []
        assert store.read(path) == b"ours"
    proxy.next = ["lose"]
    with pytest.raises(ReplacedError):  # the same content, but another process wrote it
        store.replace(f"{root}/put_if_absent", b"ours", None)
