"""Tests of the storage interface on a file system: every object is whole, and one of many writers wins."""

import datetime
import errno
import fcntl
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from pipeline.dataset.layout import Layout
from pipeline.errors import ConfigError, ExistsError, ExitCode, MissingError, ReplacedError
from pipeline.storage import local


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
    store.put_if_absent(f"{root}/a", b"first")  # our own put, whose answer was lost
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
    store.copy_if_absent(source, target)  # our own copy, whose answer was lost
    assert store.read(target) == b"content"
    for other in (b"another", b"longer content"):
        store.put(target, other)
        with pytest.raises(ExistsError, match="target: exists already"):
            store.copy_if_absent(source, target)
        assert store.read(target) == other
    store.put(target, b"content")  # from another writer, but equal
    store.copy_if_absent(source, target)
    store.put(source, b"changed")
    assert store.read(target) == b"content"  # the copy does not change with its source


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
    """Other drivers give such a storage; the test uses the memory driver without our additions."""
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


def _without_flock() -> None:
    fcntl.flock = lambda *_: None  # type: ignore[assignment]


def _add(path: str, times: int) -> None:
    store = storage.connect(path)
    for _ in range(times):
        while True:
            version = store.version(path)
            number = int(store.read(path))
            try:
                store.replace(path, str(number + 1).encode(), version)
                break
            except ReplacedError:
                pass


def test_of_many_replacing_processes_each_sees_the_one_before(tmp_path: Path) -> None:
    """This must hold without flock, which on an NFS folder keeps out only processes of the same host."""
    path = str(tmp_path / "counter")
    storage.connect(path).put(path, b"0")
    with multiprocessing.get_context("spawn").Pool(2, _without_flock) as pool:
        pool.starmap(_add, [(path, 200), (path, 200)])
    assert storage.connect(path).read(path) == b"400"


def test_who_replaces_waits_for_the_lock_of_another_process(tmp_path: Path) -> None:
    """The lock is a POSIX lock on a file that is open for writing: between hosts, NFS has only this kind."""
    path = str(tmp_path / "a")
    store = storage.connect(path)
    store.put(path, b"one")
    store.replace(path, b"two", store.version(path))
    hold = (
        "import fcntl, os, sys\n"
        f"descriptor = os.open({str(tmp_path / '.lock')!r}, os.O_RDWR)\n"
        "fcntl.lockf(descriptor, fcntl.LOCK_EX)\nprint(flush=True)\nsys.stdin.read(1)\n"
        f"open({path!r}, 'w').write('its own')\n"
    )
    expected = store.version(path)
    with (
        subprocess.Popen(
            [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        assert other.stdout and other.stdin
        other.stdout.readline()
        replacing = pool.submit(store.replace, path, b"three", expected)
        with pytest.raises(TimeoutError):
            replacing.result(0.2)
        other.stdin.write(b"x")
        other.stdin.close()
        with pytest.raises(ReplacedError):
            replacing.result()
    assert store.read(path) == b"its own"


def test_a_version_tells_contents_apart_whatever_their_times(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    times = path.stat()
    store = storage.connect(str(path))
    before = store.version(str(path))
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ReplacedError):
        store.replace(str(path), b"three", before)
    assert store.version(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize("group", [True, False])
def test_who_may_replace_files_in_a_folder_may_lock_it(tmp_path: Path, group: bool) -> None:
    path = str(tmp_path / "a")
    tmp_path.chmod(0o770 if group else 0o700)
    store = storage.connect(path)
    store.put(path, b"one")
    store.replace(path, b"two", store.version(path))
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == (0o660 if group else 0o600)


def test_a_file_system_without_locks_is_said_to_be_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS without a lock daemon is like this, but is not available here."""

    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    store = storage.connect(str(tmp_path))
    with pytest.raises(ConfigError, match="no locks between processes.*No locks available.*docs/storage.md"):
        store.prove(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_said_to_be_unfit(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FUSE and SMB are like this, but neither can be mounted here."""

    def link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    store = storage.connect(str(tmp_path))
    for write in (store.prove, lambda path: store.put_if_absent(f"{path}/a", b"1")):
        with pytest.raises(ConfigError, match="has no hard links, so no put-if-absent") as raised:
            write(str(tmp_path))
        assert raised.value.exit_code == ExitCode.CONFIG
    assert list(tmp_path.iterdir()) == []


def test_names_are_on_disk_before_what_follows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, flushed = os.fsync, []

    def fsync(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(str(tmp_path)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = storage.connect(str(tmp_path))
    store.put(f"{tmp_path}/out/data/a", b"1")
    assert [path for path in flushed if "." not in path and "#" not in path] == [
        "",
        "/out",
        "/out/data",
        "/out/data",
    ]
    flushed.clear()
    store.put(f"{tmp_path}/out/data/a", b"2")
    assert flushed[-1] == "/out/data"  # after the rename
    flushed.clear()
    store.copy_if_absent(f"{tmp_path}/out/data/a", f"{tmp_path}/new/b")
    assert flushed == ["", "/new"]


def test_what_killed_writers_leave_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every file has a name, as on NFS. The process is really killed, between two of its chunks."""
    kill = (
        "import os, signal, sys; from pathlib import Path; from pipeline.storage import local\n"
        "del os.O_TMPFILE\n"
        "def chunks():\n    yield b'half'\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "local._publish(chunks(), Path(sys.argv[1]))"
    )
    for name in ("data/part-1.parquet", "summary.json", "data/theirs"):
        target = f"{tmp_path}/{name}"
        assert subprocess.run([sys.executable, "-c", kill, target], check=False).returncode == -9
    (tmp_path / "data/.part-1.parquet.crc").touch()
    (tmp_path / "data/part-2.parquet").touch()
    store = storage.connect(str(tmp_path))
    left = store.list_recursive(str(tmp_path))
    assert sum(Layout.is_ours(name) for name in left) == 3
    for name in (".lock", f".probe-{'0' * 32}", f".probe-{'0' * 32}/one"):
        assert Layout.is_ours(name)
        assert not Layout.is_ours(f"data/{name}")
    assert store.abort_unfinished_uploads(str(tmp_path), Layout.is_ours) == 2
    assert store.abort_unfinished_uploads(str(tmp_path), Layout.is_ours) == 0
    names = sorted(name.rsplit(".", 1)[0] for name in store.list_recursive(str(tmp_path)))
    assert names == ["data/.part-1.parquet", "data/.theirs", "data/part-2"]


def test_a_root_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    """The writer's dataset was removed meanwhile, or its mount is gone."""
    store, root = storage.connect(str(tmp_path)), f"{tmp_path}/out"
    store.put_if_absent(f"{root}/data/a", b"1", root)  # the first write makes the root
    store.put(f"{tmp_path}/source", b"1")
    shutil.rmtree(root)
    for write in (
        lambda: store.put_if_absent(f"{root}/data/a", b"1", root),
        lambda: store.copy_if_absent(f"{tmp_path}/source", f"{root}/data/a", root),
    ):
        with pytest.raises(MissingError, match="is gone: nothing is written where it was"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_storage_proves_its_conditions_and_nothing_is_left(root: str) -> None:
    store = storage.connect(root)
    store.put(f"{root}/kept", b"1")
    for path in (root, f"{root}/not/yet"):
        store.prove(path)
    assert set(store.list_recursive(root)) == {"kept"}
    assert store.list_folders(root) == []


@pytest.mark.parametrize(
    ("condition", "broken"),
    [("put-if-absent", "_create"), ("replace-if", "_replace"), ("copy-if-absent", "_copy")],
)
def test_a_storage_that_ignores_a_condition_is_refused(
    tmp_path: Path, condition: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such file system is available; tests/s3 has such a server."""
    monkeypatch.setattr(local.LocalStorage, broken, lambda self, *_: self._put(f"{tmp_path}/x", b""))
    store = storage.connect(str(tmp_path))
    with pytest.raises(ConfigError, match=f"got {condition} was ignored") as raised:
        store.prove(str(tmp_path))
    assert raised.value.exit_code == ExitCode.CONFIG


def test_a_changed_file_has_another_version(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = storage.connect(str(path)).info(str(path))
    os.utime(path, ns=(0, 0))
    assert storage.connect(str(path)).info(str(path)).version != before.version


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_rewritten_with_its_size_and_time_has_another_version(tmp_path: Path, replaced: bool) -> None:
    """rsync, `cp -p` and tar rewrite files like this, in place or by another file."""
    path, times = tmp_path / "a", (1_000_000_000, 1_000_000_000)
    path.write_bytes(b"one")
    os.utime(path, ns=times)
    before = storage.connect(str(path)).info(str(path)).version
    target = tmp_path / "b" if replaced else path
    ctime = path.stat().st_ctime_ns
    while True:  # until the clock of the file system has advanced
        target.write_bytes(b"two")
        os.utime(target, ns=times)
        if target.stat().st_ctime_ns != ctime:
            break
    target.rename(path)
    assert path.stat().st_mtime_ns == times[1]
    assert storage.connect(str(path)).info(str(path)).version != before


def test_a_version_of_a_plan_of_before_still_holds(tmp_path: Path) -> None:
    """Such a version ignores the inode; with `ignore_ctime`, for copies on each node, a new one does, too."""
    path = tmp_path / "a"
    path.write_bytes(b"one")
    store = storage.connect(str(path))
    status, found = path.stat(), store.info(str(path)).version
    planned = f"{status.st_size}-{status.st_mtime_ns}"
    assert found != planned
    assert store.same(planned, found)
    assert not store.same(f"4-{status.st_mtime_ns}", found)
    assert not store.same(f"{planned}0", found)
    assert not store.same(planned, "")
    assert not store.same(f"{planned}+1", found)
    lenient = storage.connect(str(path), Options(ignore_ctime=True))
    assert lenient.info(str(path)).version == planned
    assert lenient.same(found, planned)
    assert not storage.connect("s3://b").same("a", "a+1")


@pytest.mark.parametrize("pattern", ["", "/*", "/a"])
def test_a_file_is_listed_once_another_change_would_show(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This file system's clock is too fine for the test, so the test sets a coarse resolution."""
    path, slept = tmp_path / "a", []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        path.write_bytes(b"three")

    monkeypatch.setattr(local, "FINE_SECONDS", 3600)
    monkeypatch.setattr(local, "COARSE_SECONDS", 3600)
    monkeypatch.setattr(time, "sleep", sleep)
    path.write_bytes(b"one")
    [info] = storage.connect(str(path)).glob(f"{tmp_path}{pattern}")
    assert info.size == 5
    assert 0 < sum(slept) <= 3600


def test_how_long_a_file_is_too_young() -> None:
    def status(changed_ns: int, inode_changed_ns: int) -> os.stat_result:
        numbers = (0o100644, 1, 1, 1, 0, 0, 3, 0, changed_ns / 1e9, inode_changed_ns / 1e9)
        values = {"st_mtime_ns": changed_ns, "st_ctime_ns": inode_changed_ns}
        return os.stat_result((*numbers, *numbers[-3:]), values)

    second = 1_000_000_000
    for changed, inode_changed, wait in (
        (99 * second, 99 * second, 1),  # whole seconds: the clock may count in steps of two
        (5 * second, 100 * second, 2),
        (97 * second, 97 * second, 0),
        (99 * second, 99 * second + 1, 0),  # the clock is fine
        (100 * second - 10_000_000, 100 * second - 10_000_000, 0.01),
        (200 * second, 200 * second, 0),  # the server's clock is ahead
    ):
        assert local._seconds_to_wait(status(changed, inode_changed), 100.0) == pytest.approx(wait, abs=1e-6)
    assert local._seconds_to_wait(None, 100.0) == 0


def test_find_files_folders_and_globs(root: str) -> None:
    store = storage.connect(root)
    for name in ("x/a.txt", "x/b.md", "x/deep/c.txt", "x/_hidden.txt", "x/.hidden/d.txt"):
        store.put(f"{root}/{name}", b"1")

    def names(pattern: str) -> list[str]:
        return [store.relative(f"{root}/{pattern}", info.path) for info in store.glob(f"{root}/{pattern}")]

    assert names("x/a.txt") == ["a.txt"]
    assert names("x") == ["x/a.txt", "x/b.md", "x/deep/c.txt"]
    assert names("x/*.txt") == ["a.txt"]
    assert names("x/**/*.txt") == ["a.txt", "deep/c.txt"]
    assert names("*/a.txt") == ["x/a.txt"]
    for info in store.glob(f"{root}/x"):
        assert store.read(info.path) == b"1"
        assert store.root(f"{root}/x") + "/" + store.relative(f"{root}/x", info.path) == info.path
    with pytest.raises(MissingError):
        store.glob(f"{root}/x/*.parquet")


def test_folder_of_nothing_is_empty(root: str) -> None:
    assert storage.connect(root).list_files(f"{root}/nowhere") == {}


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
    """A snapshot of the Hugging Face Hub is like this: every file is a symbolic link."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/1.txt").write_text("1")
    (tmp_path / "blobs/deep").mkdir()
    (tmp_path / "blobs/deep/2.txt").write_text("2")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").symlink_to(tmp_path / "blobs/1.txt")
    (tmp_path / "in/folder").symlink_to(tmp_path / "blobs/deep")
    for pattern, names in (("in", ["in/a.txt", "in/folder/2.txt"]), ("in/*.txt", ["a.txt"])):
        found = storage.connect("x").glob(f"{tmp_path}/{pattern}")
        assert [storage.connect("x").relative(f"{tmp_path}/{pattern}", info.path) for info in found] == names
    (tmp_path / "in/broken.txt").symlink_to(tmp_path / "nowhere")
    found = storage.connect("x").glob(f"{tmp_path}/in")
    assert [info.version for info in found if info.path.endswith("broken.txt")] == [
        "a link that leads nowhere"
    ]
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    assert storage.connect("x").glob(f"{tmp_path}/in") == found


def test_a_folder_may_look_like_a_glob(tmp_path: Path) -> None:
    folder = tmp_path / "a[1] b"
    folder.mkdir()
    (folder / "x.txt").write_text("1")
    for pattern, root in ((str(folder), tmp_path), (f"{folder}/x.txt", folder)):
        [info] = storage.connect(pattern).glob(pattern)
        assert info.path == str(folder / "x.txt")
        assert storage.connect(pattern).root(pattern) == str(root)


def test_two_keys_never_have_one_name() -> None:
    """One more slash makes another key on an object store."""
    store = storage.connect("s3://b")
    for pattern in ("s3://b/data/**", "s3://b/data", "s3://b"):
        keys = [f"s3://b/{key}" for key in ("data/a.txt", "data//a.txt", "data///a.txt")]
        found = [store.relative(pattern, key) for key in keys]
        assert len(set(found)) == 3
        assert [f"{store.root(pattern)}/{name}" for name in found] == keys


def test_a_bucket_may_be_a_source() -> None:
    assert storage.connect("s3://b").root("s3://b") == "s3://b"
    assert storage.connect("s3://b").relative("s3://b", "s3://b/deep/x.txt") == "deep/x.txt"


def test_one_storage_for_each_protocol_and_options() -> None:
    other = Options(endpoint_url="http://127.0.0.1:1")
    assert storage.connect("s3://a") is storage.connect("s3://b/c", Options())
    assert storage.connect("s3://a", other) is not storage.connect("s3://a")
    assert storage.connect("s3://a", other) is storage.connect("s3://a", Options(**other.model_dump()))


@pytest.mark.parametrize(
    ("path", "module", "package"),
    [
        ("gs://b", "google.auth", "google-auth"),
        ("abfs://b", "azure.storage.blob", "azure-storage-blob azure-identity"),
        ("az://b", "azure.storage.blob", "azure-storage-blob azure-identity"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    path: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gcs", "azure"):
        monkeypatch.delitem(sys.modules, f"pipeline.storage.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    storage._connect.cache_clear()
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        storage.connect(path)


class Hub:
    """A driver that, like the Hub's, repeats its first listing until its cache is dropped."""

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
    store = storage.base.HubStorage(hub)
    assert store.info("datasets/a/b/x.txt").version == "1"
    hub.blob = "2"
    assert store.info("datasets/a/b/x.txt").version == "2"


def test_all_below_a_folder_and_its_folders(root: str) -> None:
    store = storage.connect(root)
    assert store.list_recursive(f"{root}/x") == {}
    assert store.list_folders(f"{root}/x") == []
    names = [".hidden/d", "_SUCCESS", "a", "deep/.c", "deep/er/e", "over/f"]
    for name in names:
        store.put(f"{root}/x/{name}", name.encode())
    store.put(f"{root}/xy/a", b"1")
    found = store.list_recursive(f"{root}/x")
    assert {name: info.size for name, info in found.items()} == {name: len(name) for name in names}
    assert all(store.read(info.path) == name.encode() for name, info in found.items())
    assert store.list_folders(f"{root}/x") == ["deep", "over"]
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
    assert set(store.list_files(f"{root}/a")) == {"c"}
    store.remove(f"{root}/a/c")
    store.remove_empty_folder(f"{root}/a")
    store.remove_empty_folder(f"{root}/a")
    assert store.list_folders(root) == []


def test_links_out_of_a_folder_are_not_below_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a").write_text("1")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x/broken").symlink_to(tmp_path / "nowhere")
    assert storage.connect("x").list_recursive(f"{tmp_path}/x") == {}
    assert storage.connect("x").list_folders(str(tmp_path)) == ["elsewhere", "x"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert storage.connect("x").list_folders(str(tmp_path)) == ["elsewhere", "x"]
