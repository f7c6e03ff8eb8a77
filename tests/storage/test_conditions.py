"""Tests that a storage that ignores the condition of a write is refused before anything relies on it."""

from collections.abc import Iterator

import pytest

from pipeline import storage
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ConfigError, ExitCode
from tests.s3.ignoring import CONDITIONS, Ignoring, ignoring
from tests.s3.server import environment

ROOT = "s3://bucket/out"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ignoring]:
    with ignoring() as running:
        for name, value in environment(running.url).items():
            monkeypatch.setenv(name, value)
        storage._connect.cache_clear()
        yield running
        storage._connect.cache_clear()


def test_one_that_keeps_them_passes_and_nothing_is_left(server: Ignoring) -> None:
    Dataset(ROOT).refuse_unconditional()
    assert server.objects == server.parts == {}
    assert len(server.requests) < 24


@pytest.mark.parametrize("condition", CONDITIONS)
def test_one_that_ignores_one_is_refused_and_it_is_named(server: Ignoring, condition: str) -> None:
    server.ignored = {CONDITIONS[condition]}
    with pytest.raises(ConfigError, match=rf"got {condition} was ignored\).*docs/storage.md") as raised:
        Dataset(ROOT).refuse_unconditional()
    assert raised.value.exit_code == ExitCode.CONFIG
    assert server.objects == server.parts == {}


def test_one_that_ignores_all_is_refused_for_all(server: Ignoring) -> None:
    server.ignored = set(CONDITIONS.values())
    with pytest.raises(ConfigError) as raised:
        Dataset(ROOT).refuse_unconditional()
    assert all(f"{condition} was ignored" in raised.value.got for condition in CONDITIONS)
    assert server.objects == server.parts == {}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_one_that_does_not_know_one_is_refused_and_it_is_named(server: Ignoring, condition: str) -> None:
    server.unknown = {CONDITIONS[condition]}
    with pytest.raises(ConfigError, match=f"{condition} was answered by NotImplemented"):
        Dataset(ROOT).refuse_unconditional()


def test_who_may_not_remove_may_write(server: Ignoring) -> None:
    server.undeletable = True
    Dataset(ROOT).refuse_unconditional()
    assert all("/.probe-" in key for key in server.objects)


def test_a_complete_dataset_is_not_tried(server: Ignoring) -> None:
    server.objects["bucket/out/data/_SUCCESS"] = b""
    server.ignored = set(CONDITIONS.values())
    Dataset(ROOT).refuse_unconditional()
    assert set(server.requests) == {"HEAD"}


def test_who_only_looks_writes_nothing(server: Ignoring) -> None:
    Dataset(ROOT).refuse_unconditional(live=False)
    assert server.requests == []
