"""A local or mounted file system: what has a name is whole and on disk."""

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
from pipeline.storage.base import WRITABLE, NamedFile, ObjectInfo, Storage
from pipeline.storage.error_mapping import named_errors
from pipeline.storage.walk import DEEP, MAGIC, Found, Walk

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Why two names of one file can't be had: another file system, or one without links, or with too many."""
NO_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
CHUNK = 1 << 20
BROKEN_LINK = "a link that leads nowhere"
"""The version of what is listed, but not there."""
COARSE_SECONDS, FINE_SECONDS = 2.0, 0.02
"""The grain of times where they are whole seconds (FAT counts by two), and of those of Linux elsewhere."""
CHANGE = "+"
"""Parts a version from the time of the inode's last change."""
LOCK = ".lock"
HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""The name of a file that is being written (`_hidden`), with the one that it gets."""


class LocalStorage(Storage):
    """A file system: what is written appears under its name only when it is whole and on disk."""

    conditional = True
    threads = threading.Lock()
    """A POSIX lock is a process's: it keeps no thread of it out."""

    def __init__(self, filesystem: Any, options: Options | None = None) -> None:
        super().__init__(filesystem, options)
        self.roots: set[str] = set()
        """Folders below which something was written."""

    def full(self, path: str) -> str:
        """An absolute path, without `file://`."""
        return path

    def version(self, path: str) -> str | None:
        """As above; a digest of the content, for times are coarse, inodes used again, and both cached by NFS.

        To open a file asks the server of a network file system for it anew; to look it up does not.
        """
        telemetry.request("info", path)
        try:
            with named_errors(path), _regular(self.strip(path)) as file:
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
        """As above; a part that one of the two does not have says nothing (`_version`)."""
        parts = zip(planned.split(CHANGE), found.split(CHANGE), strict=False)
        return all(one == other for one, other in parts)

    def remove_empty_folder(self, path: str) -> None:
        """As above; one that holds something stays."""
        with suppress(OSError):
            Path(self.strip(path)).rmdir()

    def _below(self, folder: str) -> dict[str, ObjectInfo]:
        """Links are not followed: what they lead to lies elsewhere."""
        root, found = Path(self.strip(folder)), {}
        for at, _, names in os.walk(root, onerror=_refuse):
            for path in (Path(at, name) for name in names):
                with suppress(FileNotFoundError):  # gone since it was listed
                    found[str(path.relative_to(root))] = self._info({"name": str(path)})
        return found

    def _is_glob(self, pattern: str) -> bool:
        # A folder may be called `a[1]`: what is there under its very name is no glob.
        return super()._is_glob(pattern) and not os.path.exists(self.strip(pattern))  # noqa: PTH110  (no error)

    def _search(self, pattern: str) -> dict[str, dict[str, Any]]:
        """Through symbolic links, as a user of `ls` and `cp` expects; fsspec passes over them."""
        path = self.strip(pattern)
        if Path(path).is_file():
            found = [Found(path, Path(path).stat())]
        else:
            parts = path.split("/")
            magic = (at for at, part in enumerate(parts) if MAGIC & set(part))
            end = next(magic) if self._is_glob(pattern) else len(parts)
            walk = Walk("/".join(parts[:end]), parts[end:] or [DEEP], self.options.outside_links)
            found = list(walk.files())
        return {each.path: {"name": each.path, "status": each.status} for each in _settled(found)}

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        status = info["status"] if "status" in info else Path(info["name"]).stat()
        if status is None:  # to be named as a file that can't be read, beside those that can
            epoch = datetime.datetime.fromtimestamp(0, datetime.UTC)
            return ObjectInfo(info["name"], 0, BROKEN_LINK, epoch)
        changed = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
        return ObjectInfo(info["name"], status.st_size, self._version(status), changed)

    def _version(self, status: os.stat_result) -> str:
        """Of a file: its size and time, and the time of its inode, which nobody can set.

        No inode: the same file is another one on every node of some network file systems.
        """
        version = f"{status.st_size}-{status.st_mtime_ns}"
        return version if self.options.ignore_ctime else f"{version}{CHANGE}{status.st_ctime_ns}"

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:  # noqa: ARG002  (asks nobody)
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
        """Another name for the same file: nothing that we write is ever changed in place."""
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
        """As above."""
        telemetry.request("remove", path)
        with named_errors(path):
            Path(self.strip(path)).unlink(missing_ok=True)

    def sweep(self, folder: str, ours: Callable[[str], bool]) -> int:
        """As above: files that were being written by a process that was killed."""
        root, swept = self.strip(folder), 0
        with named_errors(folder):
            for at, _, names in os.walk(root, onerror=_refuse):
                for name in names:
                    path = Path(at, name)
                    found = HIDDEN.fullmatch(name)
                    if found and ours(str(path.with_name(found[1]).relative_to(root))):
                        path.unlink(missing_ok=True)
                        swept += 1
        return swept

    def _probe_folder(self, root: str) -> str:
        """As above; where the root does not exist yet, in the folder that it would be made in."""
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
    """No other process on any host is in here for a folder, as long as they all see its file system.

    A POSIX lock on a plain file that is open for writing: NFS carries it to its server, where flock on a
    folder would hold on this host alone. It ends with its process. The file stays: were it removed, one
    process could hold the removed one, and another its successor.

    Raises:
        ConfigError: the file system has no such locks.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(PermissionError):  # not ours: whoever made it has seen to it
            os.fchmod(descriptor, folder.stat().st_mode & 0o666)  # who may replace files here may lock
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCK:
                raise
            raise _unfit("has no locks between processes, and so no replace-if", folder, error) from error
        yield
    finally:
        os.close(descriptor)


def _unfit(what: str, where: Path, error: OSError) -> ConfigError:
    hint = f"set output.path to {' or '.join(WRITABLE)} that has (docs/storage.md)"
    return ConfigError(f"this file system {what}", str(where), str(error), hint)


def _settled(found: Sequence[Found]) -> Iterator[Found]:
    """What was found; files that were changed just now as they are when another change would show.

    Two changes within one grain of a file system's clock leave the same times: the second would not be seen.
    """
    now = time.time()
    waits = [_seconds_to_wait(each.status, now) for each in found]
    if any(waits):
        time.sleep(max(waits))
    for each, wait in zip(found, waits, strict=True):
        with suppress(FileNotFoundError):  # gone since it was listed
            yield Found(each.path, Path(each.path).stat()) if wait else each


def _seconds_to_wait(status: os.stat_result | None, now: float) -> float:
    """Until a change of a file has a later time than those that it has; 0 for all but the newest files."""
    if status is None:
        return 0
    # Whole seconds are the mark of a clock that counts no less; nobody can set this time.
    grain = COARSE_SECONDS if status.st_ctime_ns % 1_000_000_000 == 0 else FINE_SECONDS
    age = now - max(status.st_mtime, status.st_ctime)
    return grain - age if 0 <= age < grain else 0


def only_its_inode_changed(planned: str, found: str) -> bool:
    """Tells whether two versions of a local file differ in the time of its inode's change alone."""
    one, other = planned.split(CHANGE), found.split(CHANGE)
    return len(one) == len(other) == 2 and one[0] == other[0] and one[1] != other[1]


def _regular(path: str) -> io.BufferedReader:
    """A file to read: a pipe would keep its reader waiting, and a device may never end.

    Raises:
        DamagedError: it is something else.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  (the caller's; pathlib has no opener)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DamagedError("can't be read", path, "no regular file", "put a file in its place")
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse(error: OSError) -> None:
    """A folder that could not be listed is not passed over; one that is gone may be."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _flush_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder, and what it lies in; their names are on disk before anything is in them."""
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
    """Make a file appear under its name, whole and flushed to disk.

    The file has no name until it is whole, so a killed writer leaves nothing behind, and linking refuses
    a name that is taken.

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
            # Only with a folder given does CPython make the call (linkat) that can name a nameless file.
            os.link(name, target, src_dir_fd=folder, follow_symlinks=True)
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        raise _unfit("has no hard links, and so no put-if-absent", target, error) from error
    finally:
        os.close(folder)


def _hidden(target: Path) -> Path:
    """A name for a file that is being written; `sweep` knows it again."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


@contextmanager
def _nameless(target: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file without a name on the target's file system, and how `os.link` calls it.

    Where the file system has no such files (NFS, macOS) it has a hidden name, removed at the end.
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
