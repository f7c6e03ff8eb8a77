"""A local or mounted file system: every file that has a name is whole and on disk."""

import datetime
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline import telemetry
from pipeline.config.location import Options
from pipeline.errors import ConfigError, DamagedError, MissingError
from pipeline.storage.base import WRITABLE, NamedFile, ObjectInfo, Search, Storage
from pipeline.storage.error_mapping import map_errors
from pipeline.storage.names import Hidden
from pipeline.storage.walk import DEEP, MAGIC, Found, Walk

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Reasons why a file can't get a second name: another file system, no links, or too many of them."""
NO_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
CHUNK = 1 << 20
BROKEN_LINK = "a link that leads nowhere"
"""The version of a file that is listed, but does not exist."""
COARSE_SECONDS, FINE_SECONDS = 2.0, 0.02
"""The resolution of times in whole seconds (FAT counts in steps of two), and of other times on Linux."""
CHANGE = "+"
"""Separates a version from the time of the inode's last change."""
LOCK = ".lock"
HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""The name of a file that is being written (`_hidden`); the group is its final name."""


class LocalStorage(Storage):
    """A file system. A file appears under its name only when it is whole and on disk."""

    conditional = True
    threads = threading.Lock()
    """Keeps other threads out: a POSIX lock belongs to a process, and holds for all its threads."""

    def __init__(self, filesystem: Any, options: Options | None = None) -> None:
        super().__init__(filesystem, options)
        self.roots: set[str] = set()
        """Folders that something was written below."""

    def strip(self, path: str) -> str:
        """Returns an absolute path in the one form that a walk gives it: without `//` and `..`."""
        return os.path.normpath(super().strip(path))

    def full(self, path: str) -> str:
        """Returns an absolute path, without `file://`."""
        return path

    def version(self, path: str) -> str | None:
        """Returns a digest of the content: times are coarse, inodes are reused, and NFS caches both.

        Opening a file makes a network file system ask its server again; looking it up does not.
        """
        telemetry.count_request("info", path)
        try:
            with map_errors(path), _regular(self.strip(path)) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except MissingError:
            return None

    def _refuse_without(self, root: str | None) -> None:
        if root is None:
            return
        if root in self.roots and not Path(self.strip(root)).is_dir():
            raise MissingError(
                "is gone: nothing is written where it was", root, hint="was it removed, or unmounted?"
            )
        self.roots.add(root)

    def same(self, planned: str, found: str) -> bool:
        """Compares only the parts that both versions have (see `_version`)."""
        parts = zip(planned.split(CHANGE), found.split(CHANGE), strict=False)
        return all(one == other for one, other in parts)

    def remove_empty_folder(self, path: str) -> None:
        """Removes an empty folder; a folder that holds something stays."""
        with suppress(OSError):
            Path(self.strip(path)).rmdir()

    def _below(self, folder: str) -> dict[str, ObjectInfo]:
        """Returns all files below a folder. It follows no links: their targets lie elsewhere."""
        root, found = Path(self.strip(folder)), {}
        for at, _, names in os.walk(root, onerror=_refuse):
            for path in (Path(at, name) for name in names):
                with suppress(FileNotFoundError):  # removed since it was listed
                    found[str(path.relative_to(root))] = self._info({"name": str(path)})
        return found

    def _is_glob(self, pattern: str) -> bool:
        # A folder may be called `a[1]`: a path that exists under exactly this name is not a glob.
        return super()._is_glob(pattern) and not os.path.exists(self.strip(pattern))  # noqa: PTH110  (no error)

    def _search(self, pattern: str, hidden: Hidden) -> Search:
        """Follows symbolic links, as users of `ls` and `cp` expect; fsspec ignores them."""
        path, passed = self.strip(pattern), dict[str, str]()
        if Path(path).is_file():
            found = [Found(path, Path(path).stat())]
        else:
            parts = path.split("/")
            magic = (at for at, part in enumerate(parts) if MAGIC & set(part))
            end = next(magic) if self._is_glob(pattern) else len(parts)
            walk = Walk("/".join(parts[:end]), parts[end:] or [DEEP], self.options.outside_links, hidden)
            found, passed = list(walk.files()), walk.passed_over
        return {each.path: {"name": each.path, "status": each.status} for each in _settled(found)}, passed

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        status = info["status"] if "status" in info else Path(info["name"]).stat()
        if status is None:  # reported as one file that can't be read, next to those that can
            epoch = datetime.datetime.fromtimestamp(0, datetime.UTC)
            return ObjectInfo(info["name"], 0, BROKEN_LINK, epoch)
        changed = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
        return ObjectInfo(info["name"], status.st_size, self._version(status), changed)

    def _version(self, status: os.stat_result) -> str:
        """Makes a version of a file's size, its time, and its inode's time, which nobody can set.

        The inode number is left out: on some network file systems every node sees another one.
        """
        version = f"{status.st_size}-{status.st_mtime_ns}"
        return version if self.options.ignore_ctime else f"{version}{CHANGE}{status.st_ctime_ns}"

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:  # noqa: ARG002  (not needed here)
        return pa.PythonFile(NamedFile(_regular(self.strip(path)), path), mode="r")

    def _read(self, path: str) -> bytes:
        with _regular(self.strip(path)) as file:
            return file.read()

    def _put(self, path: str, data: bytes) -> None:
        target = Path(self.strip(path))
        temporary = _hidden(target)
        try:
            _publish([data], temporary)
            temporary.replace(target)
            _flush_names(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _create(self, path: str, data: bytes) -> None:
        _publish([data], Path(self.strip(path)))

    def _copy(self, source: ObjectInfo, target: str) -> None:
        """Gives the file another name. This is safe because our files are never changed in place."""
        origin, path = Path(source.path).resolve(), Path(self.strip(target))
        _make_folder(path.parent)
        try:
            path.hardlink_to(origin)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            with origin.open("rb") as file:
                _publish(iter(partial(file.read, CHUNK), b""), path)
        else:
            _flush_names(path.parent)

    def _alike(self, one: ObjectInfo, other: ObjectInfo) -> bool:
        return Path(one.path).samefile(other.path) or super()._alike(one, other)

    def remove(self, path: str) -> None:
        """Removes a file, if it exists."""
        telemetry.count_request("remove", path)
        with map_errors(path):
            Path(self.strip(path)).unlink(missing_ok=True)

    def abort_unfinished_uploads(self, folder: str, ours: Callable[[str], bool]) -> int:
        """Removes files that a killed process was writing, and returns their number."""
        root, swept = self.strip(folder), 0
        with map_errors(folder):
            for at, _, names in os.walk(root, onerror=_refuse):
                for name in names:
                    path = Path(at, name)
                    found = HIDDEN.fullmatch(name)
                    if found and ours(str(path.with_name(found[1]).relative_to(root))):
                        path.unlink(missing_ok=True)
                        swept += 1
        return swept

    def _probe_folder(self, root: str) -> str:
        """Returns the folder that `prove` writes to; it is above a root that does not exist yet."""
        there = Path(self.strip(root))
        while not there.exists():
            there = there.parent
        return super()._probe_folder(str(there))

    def _remove_probe(self, folder: str, names: Iterable[str]) -> None:  # noqa: ARG002  (and the lock)
        shutil.rmtree(folder, ignore_errors=True)

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        with self.threads, _locked(Path(self.strip(path)).parent):
            if self.version(path) != expected:
                raise FileExistsError(errno.EEXIST, "another version is there", path)
            self._put(path, data)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps out every other process, on any host that sees the folder's file system.

    It takes a POSIX lock on a plain file that is open for writing. NFS carries such a lock to its server; a
    flock on a folder would hold on this host only. The lock ends with its process. The file is not removed:
    otherwise one process could hold the removed file, and another one its successor.

    Raises:
        ConfigError: the file system has no such locks.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(PermissionError):  # the file belongs to another user, who has set its mode already
            os.fchmod(descriptor, folder.stat().st_mode & 0o666)  # all who may replace files here may lock
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCK:
                raise
            raise _unfit("has no locks between processes, so no replace-if", folder, error) from error
        yield
    finally:
        os.close(descriptor)


def _unfit(what: str, where: Path, error: OSError) -> ConfigError:
    hint = f"set output.path to {' or '.join(WRITABLE)} that has (docs/storage.md)"
    return ConfigError(f"this file system {what}", str(where), str(error), hint)


def _settled(found: Sequence[Found]) -> Iterator[Found]:
    """Yields what was found, after a wait for files that were changed just now.

    Two changes within one tick of a file system's clock leave the same time, so the second would stay unseen.
    The wait lasts until another change would show.
    """
    now = time.time()
    waits = [_seconds_to_wait(each.status, now) for each in found]
    if any(waits):
        time.sleep(max(waits))
    for each, wait in zip(found, waits, strict=True):
        with suppress(FileNotFoundError):  # removed since it was listed
            yield Found(each.path, Path(each.path).stat()) if wait else each


def _seconds_to_wait(status: os.stat_result | None, now: float) -> float:
    """Returns the seconds until another change would get a later time; 0 for all but the newest files."""
    if status is None:
        return 0
    # A whole second here shows a clock that counts whole seconds: nobody can set this time.
    grain = COARSE_SECONDS if status.st_ctime_ns % 1_000_000_000 == 0 else FINE_SECONDS
    age = now - max(status.st_mtime, status.st_ctime)
    return grain - age if 0 <= age < grain else 0


def only_its_inode_changed(planned: str, found: str) -> bool:
    """Tells whether two versions of a local file differ only in the time of the inode's change."""
    one, other = planned.split(CHANGE), found.split(CHANGE)
    return len(one) == len(other) == 2 and one[0] == other[0] and one[1] != other[1]


def _regular(path: str) -> io.BufferedReader:
    """Opens a regular file to read. A pipe would keep its reader waiting, and a device may never end.

    Raises:
        DamagedError: the path is something other than a regular file.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  (the caller's; pathlib has no opener)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DamagedError("can't be read", path, "not a regular file", "put a file in its place")
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse(error: OSError) -> None:
    """Raises the error of a folder that could not be listed, unless the folder is gone."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _flush_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Makes a folder and its parents; flushes their names to disk before anything is in them."""
    try:
        folder.mkdir()
    except FileNotFoundError:
        _make_folder(folder.parent)
        _make_folder(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is there", str(folder)) from None
    else:
        _flush_names(folder.parent)


def _publish(chunks: Iterable[bytes], target: Path) -> None:
    """Makes a file appear under its name, whole and flushed to disk.

    The file has no name until it is whole, so a killed writer leaves nothing behind. The link fails if the
    name is taken.

    Raises:
        FileExistsError: the name is taken.
        ConfigError: the file system can't link.
    """
    _make_folder(target.parent)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        with _nameless(target) as (file, name):
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
            # CPython makes the call that can name a nameless file (linkat) only if a folder is given.
            os.link(name, target, src_dir_fd=folder, follow_symlinks=True)
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        raise _unfit("has no hard links, so no put-if-absent", target, error) from error
    finally:
        os.close(folder)


def _hidden(target: Path) -> Path:
    """Returns a name for a file that is being written; `abort_unfinished_uploads` recognizes it."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


@contextmanager
def _nameless(target: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Makes a file without a name on the target's file system; yields it and its path for `os.link`.

    If the file system has no such files (NFS, macOS), the file gets a hidden name, removed at the end.
    """
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    except (AttributeError, OSError):
        hidden = _hidden(target)
        try:
            with hidden.open("xb") as file:
                yield file, str(hidden)
        finally:
            hidden.unlink(missing_ok=True)
    else:
        with os.fdopen(descriptor, "wb") as file:
            yield file, f"/proc/self/fd/{descriptor}"
