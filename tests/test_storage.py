"""The storage seam on a file system: what is there is whole, and of many writers one wins."""

import datetime
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline import storage, telemetry
from pipeline.errors import ConfigError, ExistsError, ExitCode, MissingError, ReplacedError, StorageError
from pipeline.places import Options


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "file" else f"memory://{tmp_path}"


def test_put_and_read(root: str) -> None:
    store = storage.connect(root)
    store.put(f"{root}/a/b", b"one")
    store.put(f"{root}/a/b", b"three")
    assert store.read(f"{root}/a/b") == b"three"
    assert store.info(f"{root}/a/b").size == 5
    assert [path.name for path in Path(root).rglob(".*")] == []


def test_put_if_absent_keeps_the_first(root: str) -> None:
    store = storage.connect(root)
    store.put_if_absent(f"{root}/a", b"first")
    with pytest.raises(ExistsError):
        store.put_if_absent(f"{root}/a", b"second")
    store.put_if_absent(f"{root}/a", b"first")  # our own put, its answer lost
    assert store.read(f"{root}/a") == b"first"


def test_replace_only_over_the_expected_version(root: str) -> None:
    store = storage.connect(root)
    store.replace(f"{root}/a", b"one", None)
    with pytest.raises(ReplacedError):
        store.replace(f"{root}/a", b"two", None)


def test_replace_refuses_an_old_version(root: str) -> None:
    path = f"{root}/a"
    store = storage.connect(path)
    store.put(path, b"one")
    version = store.version(path)
    store.replace(path, b"two", version)
    with pytest.raises(ReplacedError):
        store.replace(path, b"three", version)
    assert store.read(path) == b"two"


def test_a_copy_is_the_same_and_never_over_another(root: str) -> None:
    store, source, target = storage.connect(root), f"{root}/a/source", f"{root}/b/target"
    with pytest.raises(MissingError, match="source: does not exist"):
        store.copy_if_absent(source, target)
    store.put(source, b"content")
    store.copy_if_absent(source, target)
    store.copy_if_absent(source, target)  # ours, its answer lost
    assert store.read(target) == b"content"
    for other in (b"another", b"longer content"):
        store.put(target, other)
        with pytest.raises(ExistsError, match="target: is there already"):
            store.copy_if_absent(source, target)
        assert store.read(target) == other
    store.put(target, b"content")  # somebody else's, but the same
    store.copy_if_absent(source, target)
    store.put(source, b"changed")
    assert store.read(target) == b"content"  # it is no window onto its source


def test_a_copy_on_a_file_system_takes_no_room(tmp_path: Path) -> None:
    store = storage.connect(str(tmp_path))
    store.put(f"{tmp_path}/source", b"content")
    (tmp_path / "link").symlink_to("source")
    for name in ("source", "link"):
        store.copy_if_absent(f"{tmp_path}/{name}", f"{tmp_path}/deep/{name}")
        assert (tmp_path / "deep" / name).samefile(tmp_path / "source")
        assert not (tmp_path / "deep" / name).is_symlink()


OTHER_DEVICE = Path("/dev/shm")


@pytest.mark.skipif(not OTHER_DEVICE.is_dir(), reason="needs a second file system")
def test_a_copy_to_another_file_system_is_whole(tmp_path: Path) -> None:
    if OTHER_DEVICE.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    store, data = storage.connect(str(tmp_path)), os.urandom((1 << 20) + 1)
    store.put(f"{tmp_path}/source", data)
    with tempfile.TemporaryDirectory(dir=OTHER_DEVICE) as folder:
        store.copy_if_absent(f"{tmp_path}/source", f"{folder}/target")
        store.copy_if_absent(f"{tmp_path}/source", f"{folder}/target")
        assert store.read(f"{folder}/target") == data
        store.put(f"{tmp_path}/source", data[::-1])
        with pytest.raises(ExistsError):
            store.copy_if_absent(f"{tmp_path}/source", f"{folder}/target")
        assert [path.name for path in Path(folder).iterdir()] == ["target"]


def test_remove(root: str) -> None:
    store = storage.connect(root)
    store.put(f"{root}/a", b"1")
    store.remove(f"{root}/a")
    store.remove(f"{root}/a")
    assert not store.exists(f"{root}/a")


def test_a_storage_without_conditions_is_refused_by_name() -> None:
    """As those of other drivers are; here that of memory, without what we added to it."""
    store = storage.Storage(fsspec.filesystem("memory"))
    assert not store.conditional
    store.put("memory://unconditional/a", b"1")
    for change in (
        lambda: store.replace("memory://unconditional/a", b"2", store.version("memory://unconditional/a")),
        lambda: store.copy_if_absent("memory://unconditional/a", "memory://unconditional/b"),
    ):
        with pytest.raises(ConfigError, match="no conditional replacement") as raised:
            change()
        assert raised.value.exit_code == ExitCode.CONFIG
    assert store.read("memory://unconditional/a") == b"1"


def _race(path: str, number: int) -> bool:
    try:
        storage.connect(path).put_if_absent(path, bytes([number]) * 100_000)
    except ExistsError:
        return False
    return True


def test_of_many_processes_one_wins(tmp_path: Path) -> None:
    path = str(tmp_path / "prize")
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        won = pool.starmap(_race, [(path, number) for number in range(20)])
    assert sum(won) == 1
    assert Path(path).read_bytes() == bytes([won.index(True)]) * 100_000


def test_of_many_replacers_each_sees_the_one_before(tmp_path: Path) -> None:
    path = str(tmp_path / "counter")
    store = storage.connect(path)
    store.put(path, b"0")

    def add(_: int) -> None:
        while True:
            version = store.version(path)
            number = int(store.read(path))
            try:
                return store.replace(path, str(number + 1).encode(), version)
            except ReplacedError:
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(100)))
    assert store.read(path) == b"100"


def test_a_changed_file_has_another_version(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = storage.connect(str(path)).info(str(path))
    os.utime(path, ns=(0, 0))
    assert storage.connect(str(path)).info(str(path)).version != before.version


def test_find_files_folders_and_globs(root: str) -> None:
    store = storage.connect(root)
    for name in ("x/a.txt", "x/b.md", "x/deep/c.txt", "x/_hidden.txt", "x/.hidden/d.txt"):
        store.put(f"{root}/{name}", b"1")

    def names(pattern: str) -> list[str]:
        return [store.relative(f"{root}/{pattern}", info.path) for info in store.find(f"{root}/{pattern}")]

    assert names("x/a.txt") == ["a.txt"]
    assert names("x") == ["x/a.txt", "x/b.md", "x/deep/c.txt"]
    assert names("x/*.txt") == ["a.txt"]
    assert names("x/**/*.txt") == ["a.txt", "deep/c.txt"]
    assert names("*/a.txt") == ["x/a.txt"]
    for info in store.find(f"{root}/x"):
        assert store.read(info.path) == b"1"
        assert store.root(f"{root}/x") + "/" + store.relative(f"{root}/x", info.path) == info.path
    with pytest.raises(MissingError):
        store.find(f"{root}/x/*.parquet")


def test_folder_of_nothing_is_empty(root: str) -> None:
    assert storage.connect(root).folder(f"{root}/nowhere") == {}


def test_requests_are_counted_and_seen(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    telemetry.observers.append(lambda operation, path: seen.append((operation, path)))
    try:
        path = str(tmp_path / "a")
        storage.connect(path).put(path, b"1")
        with storage.connect(path).open(path) as file:
            assert file.read() == b"1"
    finally:
        telemetry.observers.pop()
    assert seen == [("put", path), ("open", path)]


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    """As in a snapshot of the Hugging Face Hub, where every file is one."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/1.txt").write_text("1")
    (tmp_path / "blobs/deep").mkdir()
    (tmp_path / "blobs/deep/2.txt").write_text("2")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").symlink_to(tmp_path / "blobs/1.txt")
    (tmp_path / "in/folder").symlink_to(tmp_path / "blobs/deep")
    for pattern, names in (("in", ["in/a.txt", "in/folder/2.txt"]), ("in/*.txt", ["a.txt"])):
        found = storage.connect("x").find(f"{tmp_path}/{pattern}")
        assert [storage.connect("x").relative(f"{tmp_path}/{pattern}", info.path) for info in found] == names
    (tmp_path / "in/broken.txt").symlink_to(tmp_path / "nowhere")
    found = storage.connect("x").find(f"{tmp_path}/in")
    assert [info.version for info in found if info.path.endswith("broken.txt")] == [
        "a link that leads nowhere"
    ]
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    with pytest.raises(StorageError, match="too many levels of symbolic links|Too many levels"):
        storage.connect("x").find(f"{tmp_path}/in")


def test_a_folder_may_look_like_a_glob(tmp_path: Path) -> None:
    folder = tmp_path / "a[1] b"
    folder.mkdir()
    (folder / "x.txt").write_text("1")
    for pattern, root in ((str(folder), tmp_path), (f"{folder}/x.txt", folder)):
        [info] = storage.connect(pattern).find(pattern)
        assert info.path == str(folder / "x.txt")
        assert storage.connect(pattern).root(pattern) == str(root)


def test_a_bucket_may_be_a_source() -> None:
    assert storage.connect("s3://b").root("s3://b") == "s3://b"
    assert storage.connect("s3://b").relative("s3://b", "s3://b/deep/x.txt") == "deep/x.txt"


def test_one_storage_for_each_protocol_and_options() -> None:
    other = Options(endpoint_url="http://127.0.0.1:1")
    assert storage.connect("s3://a") is storage.connect("s3://b/c", Options())
    assert storage.connect("s3://a", other) is not storage.connect("s3://a")
    assert storage.connect("s3://a", other) is storage.connect("s3://a", Options(**other.model_dump()))


@pytest.mark.parametrize(("path", "package"), [("gs://b", "gcsfs"), ("abfs://b", "adlfs")])
def test_a_driver_that_is_not_installed_is_named(
    path: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        storage.connect(path)


class Hub:
    """As the Hub's driver: what it has listed it goes on telling, until told to forget."""

    def __init__(self) -> None:
        self.blob, self.known = "1", ""

    def invalidate_cache(self) -> None:
        self.known = ""

    def info(self, path: str) -> dict[str, object]:
        self.known = self.known or self.blob
        return {"name": path, "size": 3, "type": "file", "blob_id": self.known}

    def unstrip_protocol(self, path: str) -> str:
        return f"hf://{path}"


def test_a_file_of_the_hub_is_looked_up_anew() -> None:
    hub = Hub()
    store = storage.objects.HubStorage(hub)
    assert store.info("datasets/a/b/x.txt").version == "1"
    hub.blob = "2"
    assert store.info("datasets/a/b/x.txt").version == "2"


def test_all_below_a_folder_and_its_folders(root: str) -> None:
    store = storage.connect(root)
    assert store.below(f"{root}/x") == {}
    assert store.folders(f"{root}/x") == []
    names = [".hidden/d", "_SUCCESS", "a", "deep/.c", "deep/er/e", "over/f"]
    for name in names:
        store.put(f"{root}/x/{name}", name.encode())
    store.put(f"{root}/xy/a", b"1")
    found = store.below(f"{root}/x")
    assert {name: info.size for name, info in found.items()} == {name: len(name) for name in names}
    assert all(store.read(info.path) == name.encode() for name, info in found.items())
    assert store.folders(f"{root}/x") == ["deep", "over"]
    now = datetime.datetime.now(datetime.UTC)
    assert all(
        info.changed and abs(now - info.changed) < datetime.timedelta(days=1) for info in found.values()
    )


def test_remove_and_remove_again(root: str) -> None:
    store = storage.connect(root)
    for name in ("a/b", "a/c"):
        store.put(f"{root}/{name}", b"1")
    store.remove(f"{root}/a/b")
    store.remove(f"{root}/a/b")
    store.remove(f"{root}/nowhere/b")
    store.remove_empty_folder(f"{root}/a")
    assert set(store.folder(f"{root}/a")) == {"c"}
    store.remove(f"{root}/a/c")
    store.remove_empty_folder(f"{root}/a")
    store.remove_empty_folder(f"{root}/a")
    assert store.folders(root) == []


def test_links_out_of_a_folder_are_not_below_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a").write_text("1")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x/broken").symlink_to(tmp_path / "nowhere")
    assert storage.connect("x").below(f"{tmp_path}/x") == {}
    assert storage.connect("x").folders(str(tmp_path)) == ["elsewhere", "x"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert storage.connect("x").folders(str(tmp_path)) == ["elsewhere", "x"]
