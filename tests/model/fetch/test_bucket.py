"""Tests of models from object storage: fetched once for each node, into a cache with a bound."""

import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage, telemetry
from pipeline.config.load import parse_config
from pipeline.errors import ConfigError, MissingError, ModelError, StorageError
from pipeline.model import checkpoint
from pipeline.model.fetch import bucket
from tests.conftest import make_checkpoint

DAY = 86_400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of the cache, which does not exist yet."""
    monkeypatch.setenv(bucket.FOLDER, str(tmp_path / "caches/models"))
    return tmp_path / "caches/models"


@pytest.fixture
def url(tiny: Path) -> str:
    """Returns the URL of a copy of the tiny checkpoint in object storage."""
    return stored(tiny)


@pytest.fixture
def asked() -> Iterator[Counter[str]]:
    """Counts the requests to storage."""
    counted: Counter[str] = Counter()

    def observe(operation: str, _: str) -> None:
        counted[operation] += 1

    telemetry.observers.append(observe)
    yield counted
    telemetry.observers.remove(observe)


def stored(folder: Path, **more: bytes) -> str:
    """Copies a checkpoint to object storage, with more files; returns its URL."""
    url = f"memory://models/{uuid.uuid4().hex}"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, data in (files | more).items():
        storage.connect(url).put(f"{url}/{name}", data)
    return url


def cached(folder: Path, number: int) -> Path:
    """Fetches a variant of a checkpoint; returns its folder in the cache."""
    return checkpoint.resolve(stored(folder, **{"tokenizer_config.json": b"{}" + b" " * number})).folder


def test_it_is_the_checkpoint_that_was_stored(cache: Path, url: str, tiny: Path) -> None:
    here, fetched = checkpoint.resolve(str(tiny)), checkpoint.resolve(f"{url}/")
    fetched.check()
    assert fetched.folder.parent == cache
    assert fetched.weights_digest == here.weights_digest
    assert fetched.tokenizer_digest == here.tokenizer_digest


def test_it_is_fetched_once(cache: Path, url: str, asked: Counter[str]) -> None:
    first = checkpoint.resolve(url)
    opened = asked["open"]
    assert opened == sum(path.is_file() for path in first.folder.iterdir())
    assert checkpoint.resolve(url).revision == first.revision
    assert asked["open"] == opened
    asked.clear()
    assert checkpoint.resolve(url, first.revision).folder == first.folder
    assert not asked, "a process that knows what the driver found asks nothing"


def test_processes_of_a_node_that_start_together_fetch_it_once(
    cache: Path, url: str, asked: Counter[str]
) -> None:
    """Locks hold between open files, so threads stand for processes."""
    together = threading.Barrier(8)

    def resolve(_: int) -> Path:
        together.wait()
        return checkpoint.resolve(url).folder

    with ThreadPoolExecutor(8) as pool:
        [folder] = set(pool.map(resolve, range(8)))
    assert asked["open"] == sum(path.is_file() for path in folder.iterdir())


def test_only_its_own_files_are_fetched(cache: Path, tiny: Path) -> None:
    others = ("onnx/model.onnx", "pytorch_model.bin", "README.md", "1_Pooling/deep/config.json", "a.py")
    url = stored(tiny, **dict.fromkeys(others, b"never needed"))
    folder = checkpoint.resolve(url).folder
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny.iterdir()}


def test_the_folders_of_sentence_transformers_come_along(cache: Path, tiny: Path, tmp_path: Path) -> None:
    url = stored(
        tiny,
        **{
            "modules.json": b'[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.'
            b'Transformer"}, {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.'
            b'models.Pooling"}]',
            "1_Pooling/config.json": b'{"word_embedding_dimension": 16, "pooling_mode_cls_token": true, '
            b'"pooling_mode_mean_tokens": false}',
        },
    )
    modules = checkpoint.resolve(url).modules
    assert modules is not None
    assert modules.pooling == ("cls",)


def test_a_model_that_changes_is_another(cache: Path, url: str, tmp_path: Path) -> None:
    before = checkpoint.resolve(url)
    other = make_checkpoint(tmp_path / "other", seed=1)
    storage.connect(url).put(f"{url}/model.safetensors", (other / "model.safetensors").read_bytes())
    after = checkpoint.resolve(url)
    assert after.weights_digest == checkpoint.resolve(str(other)).weights_digest != before.weights_digest
    assert checkpoint.resolve(url, before.revision).weights_digest == before.weights_digest
    with pytest.raises(ModelError, match=r"has changed since the driver looked; run again"):
        checkpoint.resolve(url, "0" * 32)


def test_a_process_killed_meanwhile_leaves_nothing_that_is_used(cache: Path, url: str, tiny: Path) -> None:
    digest = checkpoint.resolve(url).revision
    assert digest
    (cache / digest).rename(cache / f".{digest}.part")
    (cache / f".{digest}.part/model.safetensors").write_bytes(b"the first byt")
    assert checkpoint.resolve(url, digest).weights_digest == checkpoint.resolve(str(tiny)).weights_digest
    assert not (cache / f".{digest}.part").exists()


def test_the_cache_has_a_bound(cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(path.stat().st_size for path in tiny.iterdir())
    monkeypatch.setenv(bucket.MOST_BYTES, str(2 * size + 100))
    folders = []
    for number, age in enumerate((3 * DAY, 2 * DAY)):
        folders.append(cached(tiny, number))
        os.utime(folders[-1], times=(0, time.time() - age))
    oldest, older = folders
    latest = cached(tiny, 2)
    assert not oldest.exists()
    assert older.exists()
    assert latest.exists()
    monkeypatch.setenv(bucket.MOST_BYTES, "1")
    cached(tiny, 3)
    assert not older.exists()
    assert latest.exists(), "it was asked for a moment ago, and may still be read"


def test_what_is_no_model_is_named(cache: Path) -> None:
    name = "memory://models/text"
    storage.connect(name).put(f"{name}/notes.txt", b"")
    with pytest.raises(ModelError) as told:
        checkpoint.resolve(name)
    assert str(told.value) == (
        f"{name}: no model is here: it would have a config.json (got notes.txt); "
        "name the folder that has it, and check model.options"
    )
    with pytest.raises(MissingError, match="no file here"):
        checkpoint.resolve("memory://models/none")


def test_a_cache_that_cannot_be_written_is_named(cache: Path, url: str) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    with pytest.raises(ModelError, match=f"can't be cached on this node .*set {bucket.FOLDER} to a folder"):
        checkpoint.resolve(url)


def test_a_file_that_was_cut_off_is_not_kept(cache: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No storage here ends a file too early and calls it whole, so the listing promises one byte more."""
    listed = bucket._listed

    def promising(*arguments: Any) -> dict[str, storage.ObjectInfo]:
        return {name: replace(info, size=info.size + 1) for name, info in listed(*arguments).items()}

    monkeypatch.setattr(bucket, "_listed", promising)
    with pytest.raises(StorageError, match=r"was not fetched whole .*; run again"):
        checkpoint.resolve(url)
    assert not [each for each in cache.iterdir() if not each.name.startswith(".")]


WRONG = {
    "s3://user:secret@bucket/model": ({}, "credentials must not stand in a URL"),
    "ftp://host/model": ({}, "ftp: is not supported here"),
    "hf://org/model": ({}, "is for sources only: name the Hub id alone"),
    "s3://bucket/model": ({"revision": "main"}, "has no revisions"),
    "albert-mini": ({"options": {"region": "eu-west-1"}}, "means nothing unless name is a URL"),
    "gs://bucket/model": ({"options": {"profile": "me"}}, "profile means nothing to gs"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_config_must_not_say_of_it(name: str) -> None:
    settings, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        parse_config(
            {
                "source": {"docs": {"path": "/in/*.parquet"}},
                "model": {"name": name, **settings},
                "output": {"path": "/out"},
            }
        )
