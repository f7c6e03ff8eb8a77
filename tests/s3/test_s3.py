"""Tests of the storage interface on a real S3 server."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from pipeline.config.source import Source
from pipeline.errors import DeniedError, ExistsError, ExitCode, MissingError, ReplacedError, StorageError
from pipeline.source import formats
from pipeline.source.formats import Piece
from pipeline.storage import retry, s3
from tests.s3.server import KEY, READER, READER_SECRET, SECRET


def test_conditional_writes(bucket: str) -> None:
    store, path = storage.connect(bucket), f"{bucket}/a/b"
    store.put_if_absent(path, b"first")
    with pytest.raises(ExistsError):
        store.put_if_absent(path, b"second")
    version = store.version(path)
    store.replace(path, b"third", version)
    for expected in (version, None):
        with pytest.raises(ReplacedError):
            store.replace(path, b"fourth", expected)
    assert store.read(path) == b"third"
    assert set(store.list_files(f"{bucket}/a")) == {"b"}
    with pytest.raises(MissingError):
        store.read(f"{bucket}/nothing")


def test_of_many_writers_one_wins(bucket: str) -> None:
    store = storage.connect(bucket)

    def race(number: int) -> bool:
        try:
            store.put_if_absent(f"{bucket}/prize", b"%d" % number * 1000)
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(race, range(20)))
    assert sum(won) == 1
    assert store.read(f"{bucket}/prize") == b"%d" % won.index(True) * 1000


CALLS: dict[str, Callable[[storage.Storage, str], object]] = {
    "read": lambda store, path: store.read(path),
    "find": lambda store, path: store.glob(path),
    "folder": lambda store, path: store.list_files(path),
    "put": lambda store, path: store.put(path, b"2"),
    "put_if_absent": lambda store, path: store.put_if_absent(path, b"2"),
    "replace": lambda store, path: store.replace(path, b"2", None),
}


@pytest.mark.parametrize(
    ("key", "secret", "calls"),
    [
        (KEY, "wrong-secret", [*CALLS]),
        ("nobody", SECRET, [*CALLS]),
        (READER, READER_SECRET, ["put", "put_if_absent", "replace"]),
    ],
)
def test_who_may_not_is_denied_at_once(
    bucket: str, key: str, secret: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{bucket}/a"
    storage.connect(bucket).put(path, b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    storage._connect.cache_clear()
    store = storage.connect(bucket)
    for name in calls:
        with pytest.raises(DeniedError, match=f"{path}: access denied") as raised:
            CALLS[name](store, path)
        assert raised.value.exit_code == ExitCode.CONFIG
        assert secret not in str(raised.value)
    assert not telemetry.retries


def test_what_is_not_there_is_said_at_once(bucket: str) -> None:
    store = storage.connect(bucket)
    with pytest.raises(MissingError, match=f"{bucket}/x: does not exist"):
        store.read(f"{bucket}/x")
    with pytest.raises(MissingError, match="s3://nowhere/a: its bucket does not exist"):
        store.read("s3://nowhere/a")
    for pattern in ("s3://nowhere/*.txt", "s3://nowhere/x", "s3://nowhere"):
        with pytest.raises(MissingError, match="s3://nowhere"):
            store.glob(pattern)
    assert not telemetry.retries


def test_a_server_that_is_not_there_is_said_to_be_soon(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PATIENCE_SECONDS", 1.0)
    gone = storage.connect(bucket, Options(endpoint_url="http://127.0.0.1:9"))
    with pytest.raises(StorageError, match="Could not connect"):
        gone.read(f"{bucket}/a")


@pytest.mark.parametrize("first", [1, 700, s3.FIRST_BYTES])
def test_objects_of_all_sizes_are_read_whole_and_of_one_version(
    first: int, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = storage.connect(bucket), f"{bucket}/a"
    monkeypatch.setattr(s3, "FIRST_BYTES", first)
    monkeypatch.setattr(s3, "PART_BYTES", 1000)
    for size in (0, 1, 999, 1000, 1001, 12_345):
        data = random.Random(size).randbytes(size)
        store.filesystem.pipe_file(path, data)
        assert store.read(path) == data
        with store.open(path) as file:
            assert file.read(size + 100) == data
            assert file.read(100) == b""
            file.seek(size // 2)
            assert file.read(100) == data[size // 2 :][:100]
            assert file.read(100) == data[size // 2 :][100:200]
            assert file.read() == data[size // 2 :][200:]
    with store.open(path) as file:
        store.filesystem.pipe_file(path, b"another")
        if first >= len(data):  # the whole object was read when it was opened
            assert file.read() == data
        else:
            with pytest.raises(ReplacedError, match="is not the expected version"):
                file.read()


def test_globs_and_the_markers_of_empty_folders(bucket: str) -> None:
    store = storage.connect(bucket)
    for name in ("x/a.txt", "x/b.md", "x/deep/c.txt", "x/deep/er/d.txt", "y/a.txt"):
        store.put(f"{bucket}/{name}", b"1")
    for marker in ("x/", "empty/"):
        store.filesystem.call_s3("put_object", Bucket=bucket[5:], Key=marker, Body=b"")

    def names(pattern: str) -> list[str]:
        return [info.path.removeprefix(f"{bucket}/") for info in store.glob(f"{bucket}/{pattern}")]

    assert names("x/*.txt") == ["x/a.txt"]
    assert names("?/a.txt") == ["x/a.txt", "y/a.txt"]
    assert names("*/deep/*.txt") == ["x/deep/c.txt"]
    assert names("x/**/*.txt") == ["x/a.txt", "x/deep/c.txt", "x/deep/er/d.txt"]
    assert names("x/de*/**") == ["x/deep/c.txt", "x/deep/er/d.txt"]
    assert names("x") == ["x/a.txt", "x/b.md", "x/deep/c.txt", "x/deep/er/d.txt"]
    assert set(store.list_files(f"{bucket}/x")) == {"a.txt", "b.md"}
    assert store.list_files(f"{bucket}/nowhere") == {}


def test_options_instead_of_the_environment(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.connect(bucket).put(f"{bucket}/a", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    options = Options(endpoint_url=s3_server, profile="mine", region="us-east-1")
    assert storage.connect(bucket, options).read(f"{bucket}/a") == b"1"
    with pytest.raises(DeniedError):
        storage.connect(bucket, Options(endpoint_url=s3_server, anonymous=True)).read(f"{bucket}/a")


@pytest.mark.parametrize("page", [7, 1000])
def test_a_folder_is_listed_whole_in_stretches_side_by_side(
    bucket: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Names are at the edges, between and outside of them; pages have one name less or more than a range."""
    monkeypatch.setattr(s3, "PAGE_KEYS", page)
    store, digits = storage.connect(bucket), "0123456789abcdef"
    names = [f"part-{first}{second}" for first in digits for second in digits[::3]]
    names += ["_SUCCESS", "a", "part-", "part-3", "part-4", "part-A", "part-f", "part-g", "part-é", "z"]
    edges = [f"part-{digit}" for digit in digits[1:]]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(f"{bucket}/data/{name}", name.encode()), names))
        store.put(f"{bucket}/data/part-5x/inside", b"")
    assert store.list_files(f"{bucket}/data", edges) == store.list_files(f"{bucket}/data")
    assert sorted(store.list_files(f"{bucket}/data", edges)) == sorted(names)
    assert store.list_files(f"{bucket}/nothing", edges) == {}
    assert store.list_files(f"{bucket}-none/nothing", edges) == {}


@pytest.mark.parametrize("kind", ["text", "text-files"])
def test_a_file_that_is_another_only_while_it_is_read_is_not_read(bucket: str, kind: str) -> None:
    """Both checks of its version, before and after, find the planned one."""
    store, path = storage.connect(bucket), f"{bucket}/x.txt"
    store.put(path, b"as it was planned\n")
    info = store.info(path)
    stop = 1 if kind == "text-files" else info.size
    piece = Piece("docs", "x.txt", info.version, info.size, "bytes", 0, stop)
    source = Source(path=path, format=kind)

    def replaced(operation: str, asked: str) -> None:
        if asked == path and operation == "open":
            store.put(path, b"something else    \n")
        elif asked == path and operation == "info":
            store.put(path, b"as it was planned\n")

    telemetry.observers.append(replaced)
    try:
        with pytest.raises(ReplacedError):
            list(formats.read(path, [piece], source, pa.schema([])))
    finally:
        telemetry.observers.remove(replaced)
    assert store.info(path).version == info.version


def test_this_server_keeps_the_conditions_of_writes(bucket: str) -> None:
    """The proof leaves nothing behind, not even unfinished uploads."""
    store = storage.connect(bucket)
    store.prove(f"{bucket}/out")
    assert store.list_recursive(bucket) == {}
    assert store.abort_unfinished_uploads(f"{bucket}/out", lambda _: True) == 0
