"""The seam to storage: list, read, put, put-if-absent, replace-if. The only file that knows protocols.

All failures leave here as `StorageError`s. A put is atomic on every backend: readers see the whole object
or none. Put-if-absent is what commits shards: of any number of writers exactly one wins.
"""

import errno
import fcntl
import functools
import glob
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from botocore.exceptions import (
    BotoCoreError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from pipeline import telemetry
from pipeline.errors import DeniedError, ExistsError, MissingError, ReplacedError, StorageError

GLOB_CHARACTERS = "*?["
CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its full path, its size in bytes, and what changes whenever its content does."""

    path: str
    size: int
    version: str


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
        named = self.strip(self.root(pattern) if self._is_glob(pattern) else pattern)
        with named_errors(pattern):
            infos = [
                self._info(info)
                for path, info in sorted(self._search(pattern).items())
                if not _hidden(path.removeprefix(named))
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
        infos = {}
        for entry in entries:
            name = entry["name"].rsplit("/", 1)[-1]
            if entry["type"] == "file" and not name.startswith("."):
                with suppress(FileNotFoundError):  # gone since it was listed
                    infos[name] = self._info(entry)
        return infos

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
                _until_settled(lambda: self._create(path, data))
        except ExistsError:
            # The answer to our own put may have been lost and its retry refused: then it is ours that stands.
            if self.info(path).size != len(data) or self.read(path) != data:
                raise

    def replace(self, path: str, data: bytes, expected: str | None) -> None:
        """Write an object if it still has the expected version (None: if there is none).

        Raises:
            ReplacedError: it has another version, or is there when it should not be.
        """
        telemetry.request("put", path)
        with named_errors(path, lost=ReplacedError):
            if expected is None:
                _until_settled(lambda: self._create(path, data))
            else:
                _until_settled(lambda: self._replace(path, data, expected))

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
        end = max(1, len(parts) - 1)  # a bucket lies in nothing
        if self._is_glob(pattern):
            end = next(at for at, part in enumerate(parts) if set(part) & set(GLOB_CHARACTERS))
        return self.full("/".join(parts[:end]))

    def relative(self, pattern: str, path: str) -> str:
        """The name of a file that a pattern found, relative to the pattern's root."""
        return self.strip(path).removeprefix(self.strip(self.root(pattern))).lstrip("/")

    def strip(self, path: str) -> str:
        """A path as the backend knows it: without its protocol, absolute."""
        return str(self.filesystem._strip_protocol(path))

    def full(self, path: str) -> str:
        """A backend's path as the rest of the world writes it."""
        return str(self.filesystem.unstrip_protocol(path))

    def _is_glob(self, pattern: str) -> bool:
        return bool(set(pattern) & set(GLOB_CHARACTERS))

    def _search(self, pattern: str) -> dict[str, dict[str, Any]]:
        search = self.filesystem.glob if self._is_glob(pattern) else self.filesystem.find
        found = search(pattern, detail=True)
        return {path: info for path, info in found.items() if info["type"] == "file"}

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(self.full(info["name"]), int(info["size"]), _version(info))

    def _open(self, path: str) -> pa.NativeFile:
        # Without fsspec's cache: its blocks of 50 MB are 14 to 400 times what our readers ask for.
        file = self.filesystem.open(path, "rb", cache_type="none")
        return pa.PythonFile(_Named(file, path), mode="r")

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

    def version(self, path: str) -> str | None:
        """As above; with the inode, which tells two replacements within one grain of the clock apart."""
        try:
            return f"{self.info(path).version}-{Path(self.strip(path)).stat().st_ino}"
        except (MissingError, FileNotFoundError):
            return None

    def _is_glob(self, pattern: str) -> bool:
        # A folder may be called `a[1]`: what is there under its very name is no glob.
        return super()._is_glob(pattern) and not Path(self.strip(pattern)).exists()

    def _search(self, pattern: str) -> dict[str, dict[str, Any]]:
        """Through symbolic links, as a user of `ls` and `cp` expects; fsspec passes over them."""
        path = self.strip(pattern)
        if Path(path).is_file():
            return {path: {"name": path}}
        wanted = path if self._is_glob(pattern) else f"{glob.escape(path)}/**"
        found = sorted(glob.glob(wanted, recursive=True))  # noqa: PTH207  (pathlib's does not follow links)
        return {name: {"name": name} for name in found if not Path(name).is_dir()}

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        status = Path(info["name"]).stat()
        # No inode: the same file is another one on every node of some network file systems.
        return ObjectInfo(info["name"], status.st_size, f"{status.st_size}-{status.st_mtime_ns}")

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
            if self.version(path) != expected:
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


def _until_settled(put: Callable[[], None]) -> None:
    """Try a conditional write again while another one of the same object is under way (409)."""
    for pause in (0.1, 0.3, 1.0, 3.0):
        try:
            return put()
        except OSError as error:
            if _code(error) not in CONFLICTS:
                raise
        time.sleep(pause)
    return put()


def _code(error: OSError) -> str:
    """What the S3 server called an error; s3fs keeps it behind its own."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


class _Named:
    """A file of fsspec's whose failures are storage's: inside Arrow they would look like a damaged file."""

    def __init__(self, file: Any, path: str) -> None:
        self.file, self.path = file, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        """As the file's own."""
        with named_errors(self.path):
            return bytes(self.file.read(size))


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
        if _code(error) == "PreconditionFailed":
            raise lost("is there already", path) from None
        raise StorageError("storage failed", path, _brief(error), "run again") from error
    except (ParamValidationError, ProfileNotFound, PartialCredentialsError) as error:
        raise DeniedError(
            "storage can't be asked", path, _brief(error), "mend the path or the environment"
        ) from None
    except BotoCoreError as error:
        raise StorageError("storage failed", path, _brief(error), "run again") from error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())
