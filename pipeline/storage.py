"""The seam to storage: list, read, put, put-if-absent, replace-if. The only file that knows protocols.

All failures leave here as `StorageError`s. A put is atomic on every backend: readers see the whole object
or none. Put-if-absent is what commits shards: of any number of writers exactly one wins.
"""

import errno
import fcntl
import functools
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from botocore.exceptions import BotoCoreError, NoCredentialsError

from pipeline import telemetry
from pipeline.errors import DeniedError, ExistsError, MissingError, ReplacedError, StorageError

GLOB_CHARACTERS = "*?["


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its full path, its size in bytes, and what changes whenever its content does."""

    path: str
    size: int
    version: str


@functools.cache
def connect(path: str) -> "Storage":
    """The storage that holds a path or URL; one per process and protocol."""
    return _connect(path.split("://", 1)[0] if "://" in path else "file")


@functools.cache
def _connect(protocol: str) -> "Storage":
    if protocol == "file":
        return LocalStorage(fsspec.filesystem("file"))
    # A cached listing would hide the shards of a rival, and what changed under a reader.
    return Storage(fsspec.filesystem(protocol, use_listings_cache=False))


class Storage:
    """Object storage behind fsspec (s3, memory)."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def find(self, pattern: str) -> list[ObjectInfo]:
        """The objects that a file, folder or glob names, by path; hidden ones (`.x`, `_x`) left out.

        Raises:
            MissingError: the pattern names nothing.
        """
        telemetry.request("list", pattern)
        with named_errors(pattern):
            search = self.filesystem.glob if _is_glob(pattern) else self.filesystem.find
            found = search(pattern, detail=True)
        named = self.strip(self.root(pattern) if _is_glob(pattern) else pattern)
        infos = [
            self._info(info)
            for path, info in sorted(found.items())
            if info["type"] == "file" and not _hidden(path.removeprefix(named))
        ]
        if not infos:
            raise MissingError("no file here", pattern, hint="check the path and its wildcards")
        return infos

    def folder(self, path: str) -> dict[str, ObjectInfo]:
        """The objects right in a folder, by name; none where the folder does not exist."""
        telemetry.request("list", path)
        try:
            with named_errors(path):
                entries = self.filesystem.ls(path, detail=True)
        except MissingError:
            return {}
        infos = [self._info(entry) for entry in entries if entry["type"] == "file"]
        return {info.path.rsplit("/", 1)[-1]: info for info in infos}

    def info(self, path: str) -> ObjectInfo:
        """Size and version of one object.

        Raises:
            MissingError: there is none.
        """
        telemetry.request("info", path)
        with named_errors(path):
            return self._info(self.filesystem.info(path))

    def exists(self, path: str) -> bool:
        """Whether the object is there."""
        try:
            self.info(path)
        except MissingError:
            return False
        return True

    @contextmanager
    def open(self, path: str) -> Iterator[pa.NativeFile]:
        """A seekable file to read, closed at the end."""
        telemetry.request("open", path)
        with named_errors(path), self._open(path) as file:
            yield file

    def read(self, path: str) -> bytes:
        """The whole object.

        Raises:
            MissingError: there is none.
        """
        telemetry.request("read", path)
        with named_errors(path):
            return bytes(self.filesystem.cat_file(path))

    def put(self, path: str, data: bytes) -> None:
        """Write an object, whatever was there before."""
        telemetry.request("put", path)
        with named_errors(path):
            self._put(path, data)

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Write an object where there is none.

        Raises:
            ExistsError: another writer was first, and wrote something else.
        """
        telemetry.request("put", path)
        try:
            with named_errors(path, lost=ExistsError):
                self._create(path, data)
        except ExistsError:
            # The answer to our own put may have been lost and its retry refused: then it is ours that stands.
            if self.read(path) != data:
                raise

    def replace(self, path: str, data: bytes, expected: str | None) -> None:
        """Write an object if it still has the expected version (None: if there is none).

        Raises:
            ReplacedError: it has another version, or is there when it should not be.
        """
        telemetry.request("put", path)
        with named_errors(path, lost=ReplacedError):
            if expected is None:
                self._create(path, data)
            else:
                self._replace(path, data, expected)

    def version(self, path: str) -> str | None:
        """The version of an object, None where there is none: what `replace` expects."""
        try:
            return self.info(path).version
        except MissingError:
            return None

    def root(self, pattern: str) -> str:
        """The folder that file names of a pattern are relative to.

        The longest folder without a glob; of a path without a glob the folder that it lies in, so that a
        file and a folder need not be told apart.
        """
        parts = self.strip(pattern).rstrip("/").split("/")
        globs = [position for position, part in enumerate(parts) if _is_glob(part)]
        return self.full("/".join(parts[: globs[0] if globs else -1]))

    def relative(self, pattern: str, path: str) -> str:
        """The name of a file that a pattern found, relative to the pattern's root."""
        return self.strip(path).removeprefix(self.strip(self.root(pattern))).lstrip("/")

    def strip(self, path: str) -> str:
        """A path as the backend knows it: without its protocol, absolute."""
        return str(self.filesystem._strip_protocol(path))

    def full(self, path: str) -> str:
        """A backend's path as the rest of the world writes it."""
        return str(self.filesystem.unstrip_protocol(path))

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(self.full(info["name"]), int(info["size"]), _version(info))

    def _open(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self.filesystem.open(path, "rb"), mode="r")

    def _put(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data)

    def _create(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data, mode="create")

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        self.filesystem.pipe_file(path, data, IfMatch=expected)


class LocalStorage(Storage):
    """A file system: what is written appears under its name only when it is whole and on disk."""

    def full(self, path: str) -> str:
        """An absolute path, without `file://`."""
        return path

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        status = Path(info["name"]).stat()
        # The inode tells a file that was replaced from one that was only touched within the clock's grain.
        version = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
        return ObjectInfo(info["name"], status.st_size, version)

    def _open(self, path: str) -> pa.NativeFile:
        return pa.OSFile(self.strip(path), mode="r")

    def _put(self, path: str, data: bytes) -> None:
        target = Path(self.strip(path))
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            _publish(data, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _create(self, path: str, data: bytes) -> None:
        _publish(data, Path(self.strip(path)))

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        target = Path(self.strip(path))
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if self._info({"name": str(target)}).version != expected:
                raise FileExistsError(errno.EEXIST, "another version is there", path)
            self._put(path, data)
        finally:
            os.close(folder)


def _publish(data: bytes, target: Path) -> None:
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
            file.write(data)
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


def _version(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag"):
        if info.get(key):
            return str(info[key]).strip('"')
    changed = info.get("LastModified") or info.get("mtime") or info.get("created")
    return f"{info['size']}-{changed}"


def _is_glob(path: str) -> bool:
    return any(character in path for character in GLOB_CHARACTERS)


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


@contextmanager
def named_errors(path: str, lost: type[StorageError] = StorageError) -> Iterator[None]:
    """Turn what backends raise into `StorageError`s; `lost` is what a refused condition is called."""
    try:
        yield
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError("does not exist", path) from None
    except FileExistsError:
        raise lost("is there already", path) from None
    except (PermissionError, NoCredentialsError) as error:
        raise DeniedError("access denied", path, str(error), "check the credentials") from None
    except OSError as error:
        # s3fs shows 412 as EINVAL; a condition is the only thing of ours that a server refuses so.
        if error.errno == errno.EINVAL and lost is not StorageError:
            raise lost("is there already", path) from None
        raise StorageError("storage failed", path, str(error), "run again") from error
    except BotoCoreError as error:
        raise StorageError("storage failed", path, str(error), "run again") from error
