"""A local or mounted file system: what has a name is whole and on disk."""

import datetime
import errno
import fcntl
import glob
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline import telemetry
from pipeline.errors import DamagedError, MissingError
from pipeline.storage.failures import named_errors
from pipeline.storage.objects import NamedFile, ObjectInfo, Storage

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Why two names of one file can't be had: another file system, or one without links, or with too many."""
CHUNK = 1 << 20
BROKEN_LINK = "a link that leads nowhere"
"""The version of what is listed, but not there."""


class LocalStorage(Storage):
    """A file system: what is written appears under its name only when it is whole and on disk."""

    conditional = True

    def full(self, path: str) -> str:
        """An absolute path, without `file://`."""
        return path

    def version(self, path: str) -> str | None:
        """As above; with the inode, which tells two replacements within one grain of the clock apart."""
        try:
            return f"{self.info(path).version}-{Path(self.strip(path)).stat().st_ino}"
        except (MissingError, FileNotFoundError):
            return None

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
        return super()._is_glob(pattern) and not Path(self.strip(pattern)).exists()

    def _search(self, pattern: str) -> dict[str, dict[str, Any]]:
        """Through symbolic links, as a user of `ls` and `cp` expects; fsspec passes over them."""
        path = self.strip(pattern)
        if Path(path).is_file():
            return {path: {"name": path}}
        wanted = path if self._is_glob(pattern) else f"{glob.escape(path)}/**"
        names = sorted(glob.glob(wanted, recursive=True))  # noqa: PTH207  (pathlib's does not follow links)
        return {name: found for name in names if (found := _entry(Path(name)))}

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        if info.get("broken"):  # to be named as a file that can't be read, beside those that can
            epoch = datetime.datetime.fromtimestamp(0, datetime.UTC)
            return ObjectInfo(info["name"], 0, BROKEN_LINK, epoch)
        status = Path(info["name"]).stat()
        changed = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
        # No inode: the same file is another one on every node of some network file systems.
        return ObjectInfo(info["name"], status.st_size, f"{status.st_size}-{status.st_mtime_ns}", changed)

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:  # noqa: ARG002  (asks nobody)
        return pa.PythonFile(NamedFile(_regular(self.strip(path)), path), mode="r")

    def _read(self, path: str) -> bytes:
        with _regular(self.strip(path)) as file:
            return file.read()

    def _put(self, path: str, data: bytes) -> None:
        target = Path(self.strip(path))
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            _publish([data], temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _create(self, path: str, data: bytes) -> None:
        _publish([data], Path(self.strip(path)))

    def _copy(self, source: ObjectInfo, target: str) -> None:
        """Another name for the same file: nothing that we write is ever changed in place."""
        origin, path = Path(source.path).resolve(), Path(self.strip(target))
        path.parent.mkdir(parents=True, exist_ok=True)
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

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        target = Path(self.strip(path))
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if self.version(path) != expected:
                raise FileExistsError(errno.EEXIST, "another version is there", path)
            self._put(path, data)
        finally:
            os.close(folder)


def _entry(path: Path) -> dict[str, Any] | None:
    """Of a path that was listed; None of a folder, and of a pipe, which would keep its reader waiting."""
    try:
        return {"name": str(path)} if stat.S_ISREG(path.stat().st_mode) else None
    except FileNotFoundError:
        return {"name": str(path), "broken": True} if path.is_symlink() else None
    except OSError:  # links in a circle, no right to look: it is told where the entry is made
        return {"name": str(path)}


def _regular(path: str) -> BinaryIO:
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


def _publish(chunks: Iterable[bytes], target: Path) -> None:
    """Make a file appear under its name, whole and flushed to disk.

    The file has no name until it is whole, so a killed writer leaves nothing behind, and linking refuses
    a name that is taken.

    Raises:
        FileExistsError: the name is taken.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        with _nameless(target) as (file, name):
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
            # Only with a folder given does CPython make the call (linkat) that can name a nameless file.
            os.link(name, target, src_dir_fd=folder, follow_symlinks=True)
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _nameless(target: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file without a name on the target's file system, and how `os.link` calls it.

    Where the file system has no such files (NFS, macOS) it has a hidden name, removed at the end.
    """
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    except (AttributeError, OSError):
        hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with hidden.open("xb") as file:
                yield file, str(hidden)
        finally:
            hidden.unlink(missing_ok=True)
    else:
        with os.fdopen(descriptor, "wb") as file:
            yield file, f"/proc/self/fd/{descriptor}"
