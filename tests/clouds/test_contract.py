"""Tests what every storage of an output promises: the same suite for memory, files, S3, Google and Azure."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from pipeline.errors import (
    ConfigError,
    DeniedError,
    ExistsError,
    ExitCode,
    MissingError,
    ReplacedError,
    StorageError,
)
from pipeline.storage import Storage, azure, gcs, retry, s3
from tests.clouds.azurite_server import ACCOUNT, KEY
from tests.clouds.fake_gcs import make_bucket
from tests.clouds.places import Place, Places, read_in_parts, write_in_parts
from tests.s3.server import READER, READER_SECRET
from tests.s3.under_faults import LARGE, LEAST_PART, content


def test_what_was_put_is_read(place: Place) -> None:
    store, path = place.store(), f"{place.root}/a b/ä +%=&?#"
    store.put(path, b"one")
    before = store.info(path)
    store.put(path, b"three")
    after = store.info(path)
    assert store.read(path) == b"three"
    assert (after.size, after.path) == (5, path)
    assert after.version != before.version
    assert list(store.list_files(f"{place.root}/a b")) == ["ä +%=&?#"]


@pytest.mark.parametrize("first", [1, 700, 128 << 10])
def test_objects_of_all_sizes_are_read_whole_and_of_one_version(
    first: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = place.store(), f"{place.root}/a"
    read_in_parts(monkeypatch, part=1000, first=first)
    for size in (0, 1, 999, 1000, 1001, 12_345):
        data = content(size, size)
        store.put(path, data)
        assert store.read(path) == data
        for known in (None, store.info(path)):
            with store.open(path, known) as file:
                assert file.read(size + 100) == data
                assert file.read(100) == b""
                file.seek(size // 2)
                assert file.read(100) == data[size // 2 :][:100]
                assert file.read() == data[size // 2 :][100:]


@pytest.mark.parametrize("known", [False, True])
def test_who_reads_an_object_that_is_replaced_is_told(known: bool, served: Place) -> None:
    store, path = served.store(), f"{served.root}/a"
    store.put(path, content(1, 1 << 20))
    listed = store.info(path)
    with store.open(path, listed if known else None) as file:
        store.put(path, content(2, 1 << 20))
        with pytest.raises(ReplacedError, match="is not the expected version"):
            file.read()
    store.remove(path)
    # Azurite says of an object that is gone that it has another version.
    with pytest.raises((MissingError, ReplacedError)), store.open(path, listed) as file:
        file.read()


def test_put_if_absent_keeps_the_first(place: Place) -> None:
    store, path = place.store(), f"{place.root}/a"
    store.put_if_absent(path, b"first")
    with pytest.raises(ExistsError):
        store.put_if_absent(path, b"second")
    store.put_if_absent(path, b"first")  # equal content needs no winner
    assert store.read(path) == b"first"


def test_a_replacement_is_over_the_version_that_was_seen(place: Place) -> None:
    store, path = place.store(), f"{place.root}/a"
    assert store.version(path) is None
    store.replace(path, b"one", None)
    version = store.version(path)
    store.replace(path, b"two", version)
    for expected in (version, None):
        with pytest.raises(ReplacedError):
            store.replace(path, b"three", expected)
    assert store.read(path) == b"two"
    store.remove(path)
    with pytest.raises((ReplacedError, StorageError)):
        store.replace(path, b"four", version)
    assert not store.exists(path)


def test_of_twenty_writers_one_wins(place: Place) -> None:
    store, path = place.store(), f"{place.root}/prize"
    won = _race(lambda number: store.put_if_absent(path, b"%d" % number * 1000), ExistsError)
    assert sum(won) == 1
    assert store.read(path) == b"%d" % won.index(True) * 1000


def test_of_twenty_replacers_one_wins(place: Place) -> None:
    store, path = place.store(), f"{place.root}/LATEST.json"
    store.put(path, b"before")
    version = store.version(path)
    won = _race(lambda number: store.replace(path, b"%d" % number, version), ReplacedError)
    assert sum(won) == 1
    assert store.read(path) == b"%d" % won.index(True)


@pytest.mark.parametrize("kind", ["gs", "abfs"])
def test_of_twenty_writers_in_parts_one_wins(
    kind: str, make_place: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SeaweedFS does not keep this promise (docs/storage.md)."""
    write_in_parts(monkeypatch, 1000)
    place = make_place(kind)
    store, path = place.store(), f"{place.root}/prize"
    won = _race(lambda number: store.put_if_absent(path, content(number)), ExistsError)
    assert sum(won) == 1
    assert store.read(path) == content(won.index(True))


def _race(write: Callable[[int], None], lost: type[StorageError]) -> list[bool]:
    def run(number: int) -> bool:
        try:
            write(number)
        except lost:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(run, range(20)))


def test_a_large_object_is_written_under_the_same_conditions(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_in_parts(monkeypatch, LEAST_PART)
    store, path = place.store(), f"{place.root}/a"
    store.put_if_absent(path, content(1, LARGE))
    with pytest.raises(ExistsError):
        store.put_if_absent(path, content(2, LARGE))
    version = store.version(path)
    store.replace(path, content(3, LARGE), version)
    with pytest.raises(ReplacedError):
        store.replace(path, content(4, LARGE), version)
    assert store.read(path) == content(3, LARGE)
    assert store.abort_unfinished_uploads(place.root, bool) == 0


@pytest.fixture(params=[3000, LARGE], ids=["at once", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    write_in_parts(monkeypatch, LEAST_PART)
    return int(request.param)


def test_a_copy_is_the_same_and_never_over_another(size: int, place: Place) -> None:
    store, source, target = place.store(), f"{place.root}/a/ä +%=&?#", f"{place.root}/b/ü +%=&?#"
    with pytest.raises(MissingError, match="does not exist"):
        store.copy_if_absent(source, target)
    store.put(source, content(1, size))
    store.copy_if_absent(source, target)
    store.copy_if_absent(source, target)
    assert store.read(target) == content(1, size)
    for other in (content(2, size), b"short"):
        store.put(target, other)
        with pytest.raises(ExistsError, match="exists already"):
            store.copy_if_absent(source, target)
        assert store.read(target) == other
    store.put(target, content(1, size))  # from another write, but with the same content
    store.copy_if_absent(source, target)


@pytest.mark.parametrize("then", ["replaced", "removed"])
def test_a_source_that_changes_meanwhile_is_not_copied(
    size: int, then: str, served: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change comes after all that the store looks up, before the request to copy."""
    store, source, target = served.store(), f"{served.root}/source", f"{served.root}/target"
    store.put(source, content(1, size))
    client = store.filesystem
    name = "copy_version" if served.kind == "s3" else "copy"
    copy = getattr(client, name)

    def late(*arguments: object) -> None:
        store.put(source, content(2, size)) if then == "replaced" else store.remove(source)
        copy(*arguments)

    monkeypatch.setattr(client, name, late)
    with pytest.raises(ReplacedError if then == "replaced" else MissingError, match=source):
        store.copy_if_absent(source, target)
    assert not store.exists(target)


def test_the_bytes_of_a_copy_stay_on_the_server(served: Place) -> None:
    store = served.faulty
    store.put(f"{served.root}/source", content(1, 1 << 20))
    assert served.proxy
    before = served.proxy.bytes
    store.copy_if_absent(f"{served.root}/source", f"{served.root}/target")
    assert served.proxy.bytes - before < 50_000
    assert store.read(f"{served.root}/target") == content(1, 1 << 20)


def test_of_many_copiers_one_source_wins(place: Place) -> None:
    store, target = place.store(), f"{place.root}/target"
    sources = [f"{place.root}/source{number}" for number in range(2)]
    for number, source in enumerate(sources):
        store.put(source, content(number))
    won = _race(lambda number: store.copy_if_absent(sources[number % 2], target), ExistsError)
    assert won in ([True, False] * 10, [False, True] * 10)
    assert store.read(target) == content(won.index(True))


def test_folders_and_globs(place: Place) -> None:
    store = place.store()
    for name in ("x/a.txt", "x/b.md", "x/deep/c.txt", "x/deep/er/d.txt", "x/_no.txt", "xy/a.txt", "y/a.txt"):
        store.put(f"{place.root}/{name}", b"1")

    def names(pattern: str) -> list[str]:
        return [info.path.removeprefix(f"{place.root}/") for info in store.glob(f"{place.root}/{pattern}")]

    assert names("x/a.txt") == ["x/a.txt"]
    assert names("x/*.txt") == ["x/a.txt"]
    assert names("?/a.txt") == ["x/a.txt", "y/a.txt"]
    assert names("*/deep/*.txt") == ["x/deep/c.txt"]
    assert names("x/**/*.txt") == ["x/a.txt", "x/deep/c.txt", "x/deep/er/d.txt"]
    assert names("x") == ["x/a.txt", "x/b.md", "x/deep/c.txt", "x/deep/er/d.txt"]
    assert store.list_folders(place.root) == ["x", "xy", "y"]
    assert store.list_folders(f"{place.root}/x") == ["deep"]
    assert set(store.list_files(f"{place.root}/x")) == {"a.txt", "b.md", "_no.txt"}
    found = {"_no.txt", "a.txt", "b.md", "deep/c.txt", "deep/er/d.txt"}
    assert set(store.list_recursive(f"{place.root}/x")) == found
    for nothing in (store.list_files, store.list_folders, store.list_recursive):
        assert not nothing(f"{place.root}/nowhere")
    with pytest.raises(MissingError, match="no file here"):
        store.glob(f"{place.root}/x/*.parquet")


def test_the_markers_of_empty_folders_do_not_count(served: Place) -> None:
    store = served.store()
    store.put(f"{served.root}/x/a.txt", b"1")
    for marker in ("x/", "empty/"):
        _put_key(served, store, marker)
    assert [info.path for info in store.glob(served.root)] == [f"{served.root}/x/a.txt"]
    assert set(store.list_files(f"{served.root}/x")) == {"a.txt"}


def _put_key(place: Place, store: Storage, key: str) -> None:
    bucket = place.root.partition("://")[2]
    if place.kind == "s3":
        store.filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=b"")
    else:
        store.filesystem.put(bucket, key, b"", "", None)


@pytest.mark.parametrize("page", [7, 1000])
def test_a_folder_of_many_pages_is_listed_whole(
    page: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are at the edges, between and outside of them."""
    monkeypatch.setattr(s3, "PAGE_KEYS", page)
    monkeypatch.setattr(gcs, "PAGE_KEYS", page)
    monkeypatch.setattr(azure, "PAGE_BLOBS", page)
    store, digits = place.store(), "0123456789abcdef"
    names = [f"part-{first}{second}" for first in digits for second in digits[::3]]
    names += ["_SUCCESS", "a", "part-", "part-3", "part-4", "part-A", "part-f", "part-g", "part-é", "z"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(f"{place.root}/data/{name}", name.encode()), names))
    store.put(f"{place.root}/data/part-5x/inside", b"")
    edges = [f"part-{digit}" for digit in digits[1:]]
    assert store.list_files(f"{place.root}/data", edges) == store.list_files(f"{place.root}/data")
    assert sorted(store.list_files(f"{place.root}/data", edges)) == sorted(names)
    assert len(store.list_recursive(place.root)) == len(names) + 1
    assert len(store.glob(f"{place.root}/data/part-*")) == len(names) - 3
    assert store.list_files(f"{place.root}/nothing", edges) == {}


def test_what_is_removed_is_gone(place: Place) -> None:
    store, path = place.store(), f"{place.root}/a/b"
    store.put(path, b"1")
    store.remove(path)
    store.remove(path)
    store.remove_empty_folder(f"{place.root}/a")
    store.remove_empty_folder(f"{place.root}/a")
    assert not store.exists(path)
    assert store.list_files(f"{place.root}/a") == {}
    if place.kind != "s3":  # SeaweedFS keeps the folder
        assert store.list_folders(place.root) == []


def test_conditions_are_proved_and_nothing_is_left(place: Place) -> None:
    store = place.store()
    store.put(f"{place.root}/kept", b"1")
    store.prove(f"{place.root}/out")
    assert set(store.list_recursive(place.root)) == {"kept"}


def test_a_server_that_ignores_conditions_is_refused(make_place: Places, bare_gs_url: str) -> None:
    """Google's emulator is one, without the proxy of these tests."""
    make_place("gs")
    make_bucket(bare_gs_url, "bare")
    store = storage.connect("gs://bare", Options(endpoint_url=bare_gs_url, anonymous=True))
    with pytest.raises(ConfigError, match="ifSourceGenerationMatch of a rewrite was ignored") as raised:
        store.prove("gs://bare/out")
    assert raised.value.exit_code == ExitCode.CONFIG
    assert store.list_recursive("gs://bare") == {}


def test_what_is_not_there_is_said_at_once(served: Place) -> None:
    store = served.store()
    what = "container" if served.kind == "abfs" else "bucket"
    with pytest.raises(MissingError, match=f"{served.root}/x: does not exist"):
        store.read(f"{served.root}/x")
    for pattern in (f"{served.nowhere}/*.txt", f"{served.nowhere}/x", served.nowhere):
        with pytest.raises(MissingError, match=f"{served.nowhere}.*: its {what} does not exist"):
            store.glob(pattern)
    if served.kind != "s3":  # SeaweedFS makes the bucket
        with pytest.raises(MissingError, match=f"{served.nowhere}/x: its {what} does not exist"):
            store.put_if_absent(f"{served.nowhere}/x", b"1")
    assert not telemetry.retries


CALLS: dict[str, Callable[[Storage, str], object]] = {
    "read": lambda store, path: store.read(path),
    "find": lambda store, path: store.glob(path),
    "folder": lambda store, path: store.list_files(path.rpartition("/")[0]),
    "put": lambda store, path: store.put(path, b"2"),
    "put_if_absent": lambda store, path: store.put_if_absent(path, b"2"),
    "replace": lambda store, path: store.replace(path, b"2", None),
    "copy": lambda store, path: store.copy_if_absent(path, f"{path}-copy"),
}
WRITES = ("put", "put_if_absent", "replace", "copy")


def _wrong_key(place: Place, patch: pytest.MonkeyPatch) -> Options:
    patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", f"{KEY[:-8]}AAAAAA==")
    return place.options


def _read_only(place: Place, patch: pytest.MonkeyPatch) -> Options:
    patch.setenv("AWS_ACCESS_KEY_ID", READER)
    patch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    if place.kind == "abfs":
        patch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        patch.setenv("AZURE_STORAGE_SAS_TOKEN", _readers_signature())
    return place.options


def _readers_signature() -> str:
    import datetime

    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    everything = ResourceTypes(service=True, container=True, object=True)
    rights = AccountSasPermissions(read=True, list=True)
    return str(generate_account_sas(ACCOUNT, KEY, everything, rights, until))


@pytest.mark.parametrize("kind", ["s3", "abfs"])
@pytest.mark.parametrize(("change", "calls"), [(_wrong_key, tuple(CALLS)), (_read_only, WRITES)])
def test_who_may_not_is_denied_at_once(
    kind: str,
    change: Callable[[Place, pytest.MonkeyPatch], Options],
    calls: tuple[str, ...],
    make_place: Places,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Google's emulator knows no credentials: the next test has its refusals from the proxy."""
    place = make_place(kind)
    path = f"{place.root}/in/a"
    place.store().put(path, b"1")
    options = change(place, monkeypatch)
    storage._connect.cache_clear()
    store = storage.connect(path, options)
    for name in calls:
        with pytest.raises(DeniedError, match="access denied") as raised:
            CALLS[name](store, path)
        assert raised.value.exit_code == ExitCode.CONFIG
        assert "\n" not in str(raised.value)
        assert KEY[:-8] not in str(raised.value)
    assert not telemetry.retries


@pytest.mark.parametrize("kind", ["gs", "abfs"])
@pytest.mark.parametrize("refusal", ["forbidden", "unknown"])
def test_a_refusal_is_said_at_once(kind: str, refusal: str, make_place: Places) -> None:
    place = make_place(kind)
    path = f"{place.root}/in/a"
    place.store().put(path, b"1")
    assert place.proxy
    place.proxy.faults = {refusal: 1.0}
    for call in CALLS.values():
        with pytest.raises(DeniedError, match="access denied") as raised:
            call(place.faulty, path)
        assert "\n" not in str(raised.value)
    assert not telemetry.retries


def test_a_server_that_is_not_there_is_said_to_be_soon(
    served: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PATIENCE_SECONDS", 1.0)
    gone = served.options.model_copy(update={"endpoint_url": f"http://127.0.0.1:9/{ACCOUNT}"})
    with pytest.raises(StorageError, match="check endpoint and network"):
        storage.connect(served.root, gone).read(f"{served.root}/a")


def test_what_does_not_pass_is_given_up(served: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 5.0)
    assert served.proxy
    served.proxy.faults = {"slow_down": 1.0}
    with pytest.raises(StorageError, match="run again"):
        served.faulty.read(f"{served.root}/a")
    assert telemetry.retries.total() > 0
