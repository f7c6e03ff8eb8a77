"""Storage behind fsspec: what every backend shares, and all of it for object stores."""

import datetime
import errno
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
from fsspec.utils import glob_translate

from pipeline import telemetry
from pipeline.config.location import Options, protocol_of
from pipeline.errors import ConfigError, ExistsError, MissingError, ReplacedError, StorageError
from pipeline.storage.error_mapping import LOST, code, named_errors

GLOB_CHARACTERS = "*?["
LIST_THREADS = 16
CHANGED = ("LastModified", "last_modified", "mtime", "created")
"""What drivers call the time of an object's last change."""
COMPARED_BYTES = 16 << 20
WRITABLE = ("a folder", "an s3:// URL")
PROBES = ("one", "other")
NO_VERSION = "0" * 32
NOT_KNOWN = (
    "InvalidArgument",
    "InvalidRequest",
    "MethodNotAllowed",
    "NotImplemented",
    "UnsupportedOperation",
)
"""How servers answer to a condition that they don't know, if they do not pass over it."""
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its full path, its size in bytes, and what changes whenever its content does.

    changed: when it last did, by the clock of the storage; None where the storage does not tell.
    """

    path: str
    size: int
    version: str
    changed: datetime.datetime | None = None


class Storage:
    """Object storage behind fsspec."""

    conditional = False
    """Whether `replace` over a version and `copy_if_absent` can be had here; a dataset needs both."""

    def __init__(self, filesystem: Any, options: Options | None = None) -> None:
        self.filesystem, self.options = filesystem, options or Options()

    def find(self, pattern: str) -> list[ObjectInfo]:
        """The objects that a file, folder or glob names, by path; hidden ones (`.x`, `_x`) left out.

        Raises:
            MissingError: the pattern names nothing.
        """
        telemetry.request("list", pattern)
        named = self.strip(self.root(pattern) if self._is_glob(pattern) else pattern)
        with named_errors(pattern):
            found = sorted(self._search(pattern).items())
            infos = []
            for path, info in found:
                if not _hidden(path.removeprefix(named)):
                    with suppress(FileNotFoundError):  # gone since it was listed
                        infos.append(self._info(info))
        if not infos:
            raise MissingError("no file here", pattern, hint="check the path and its wildcards")
        return infos

    def folder(self, path: str, edges: Sequence[str] = ()) -> dict[str, ObjectInfo]:
        """The objects right in a folder, by name; none where the folder does not exist.

        Args:
            edges: names, in order, that part a large folder about equally: what lies between two of them is
                listed at the same time as the rest, where storage lists page by page.
        """
        infos = self._right_in(path, partial(self._files_in, path, edges))
        named = ((info.path.rpartition("/")[2], info) for info in infos)
        return {name: info for name, info in named if _shown(name)}

    def folders(self, path: str) -> list[str]:
        """The names of the folders right in a folder, in order; none where it does not exist."""
        entries = self._right_in(path, partial(self.filesystem.ls, path, detail=True))
        names = (entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory")
        return sorted(name for name in names if _shown(name))

    def below(self, folder: str) -> dict[str, ObjectInfo]:
        """All objects below a folder, hidden ones too, by their names relative to it.

        None where the folder does not exist.
        """
        telemetry.request("list", folder)
        with named_errors(folder):
            return self._below(folder)

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
    def open(self, path: str, known: ObjectInfo | None = None) -> Iterator[pa.NativeFile]:
        """A seekable file to read, closed at the end.

        Args:
            known: what a listing said of it, for who does not begin to read at its beginning: without, the
                request that tells its size brings its first bytes with it.
        """
        telemetry.request("open", path)
        with named_errors(path), self._open(path, known) as file:
            yield file

    def read(self, path: str) -> bytes:
        """The whole object.

        Raises:
            MissingError: there is none.
            ReplacedError: it was, while it was read.
        """
        telemetry.request("read", path)
        with named_errors(path, lost=ReplacedError):
            return self._read(path)

    def put(self, path: str, data: bytes) -> None:
        """Write an object, whatever was there before."""
        telemetry.request("put", path)
        with named_errors(path):
            self._put(path, data)

    def put_if_absent(self, path: str, data: bytes, root: str | None = None) -> None:
        """Write an object where there is none.

        Args:
            root: a folder that it lies in; once it was there, it is not made again.

        Raises:
            ExistsError: another writer was first, and wrote something else.
            MissingError: the root is gone.
        """
        telemetry.request("put", path)
        try:
            with named_errors(path, lost=ExistsError):
                self._refuse_without(root)
                self._create(path, data)
        except ExistsError:
            # What is the same needs no winner; and where writes do not know themselves again, it may be ours.
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
                self._create(path, data)
            else:
                self._replace(path, data, expected)

    def copy_if_absent(self, source_path: str, target_path: str, root: str | None = None) -> None:
        """Copy an object within this storage to where there is none; its bytes do not pass through here.

        Only where something is there already, and nothing else tells what, are both read and compared.

        Args:
            root: as of `put_if_absent`.

        Raises:
            MissingError: the source does not exist.
            ReplacedError: the source was replaced before it was copied.
            ExistsError: something else is at the target.
        """
        self._refuse_without(root)
        source = self.info(source_path)
        telemetry.request("copy", target_path)
        try:
            with named_errors(target_path, lost=ExistsError):
                self._copy(source, target_path)
        except (ExistsError, MissingError) as error:
            # Ours, its answer lost, or a rival's: what is the same needs no winner.
            taken = self.exists(target_path)
            if taken and self._alike(source, self.info(target_path)):
                return
            # Which of two conditions was refused, a server does not say.
            if self.info(source_path).version != source.version:
                raise ReplacedError(LOST[ReplacedError], source_path) from None
            if isinstance(error, ExistsError) and not taken:
                raise StorageError("was refused without a reason", target_path, hint="run again") from error
            raise

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        telemetry.request("remove", path)
        with suppress(MissingError), named_errors(path):
            self.filesystem.rm_file(path)

    def remove_empty_folder(self, path: str) -> None:
        """Remove a folder that holds nothing; here they go with their last object."""

    def version(self, path: str) -> str | None:
        """The version of an object, None where there is none: what `replace` expects."""
        try:
            return self.info(path).version
        except MissingError:
            return None

    def same(self, planned: str, found: str) -> bool:
        """Whether the version that is there is the one that was planned."""
        return planned == found

    def prove(self, root: str) -> None:
        """Check, with two small objects below a root, that this storage keeps the conditions of our writes.

        Some speak S3 and pass over conditions; then rivals undo each other's work without a word.

        Raises:
            ConfigError: a write was carried out although its condition did not hold.
            StorageError: storage failed.
        """
        with named_errors(root):
            folder = self._probe_folder(root)
            one, other = (f"{folder}/{name}" for name in PROBES)
            try:
                self._put(one, b"1")
                self._put(other, b"2")
                attempts = self._impossible(one, self._info(self.filesystem.info(other)))
                with ThreadPoolExecutor(len(attempts)) as pool:
                    answers = list(pool.map(_answer, attempts.values()))
            finally:
                self._remove_probe(folder, PROBES)
        told = zip(attempts, answers, strict=True)
        if unkept := [f"{condition} {answer}" for condition, answer in told if answer]:
            raise unfit(unkept, root)

    def _impossible(self, path: str, source: ObjectInfo) -> dict[str, Callable[[], None]]:
        """Writes to an object that is there, each under a condition, by its name, that does not hold."""
        return {
            "put-if-absent": partial(self._create, path, b"3"),
            "replace-if": partial(self._replace, path, b"3", NO_VERSION),
            "copy-if-absent": partial(self._copy, source, path),
        }

    def _probe_folder(self, root: str) -> str:
        """Where `prove` writes: a folder of its own below a root."""
        return f"{root}/.probe-{uuid.uuid4().hex}"

    def _remove_probe(self, folder: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                self.remove(f"{folder}/{name}")
            except StorageError as error:  # who may write need not be allowed to remove
                telemetry.event("left behind", path=f"{folder}/{name}", reason=str(error))

    def sweep(self, folder: str, ours: Callable[[str], bool]) -> int:  # noqa: ARG002  (there are none here)
        """Remove what unfinished uploads left below a folder; how many there were.

        Only where nothing is written any more: it ends uploads that are under way.

        Args:
            ours: whether a name, relative to the folder, is one that we would write.
        """
        return 0

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
        # One slash and no more: on object stores `a//b` is another name than `a/b`.
        return self.strip(path).removeprefix(self.strip(self.root(pattern))).removeprefix("/")

    def strip(self, path: str) -> str:
        """A path as the backend knows it: without its protocol, absolute."""
        return str(self.filesystem._strip_protocol(path))

    def full(self, path: str) -> str:
        """A backend's path as the rest of the world writes it."""
        return str(self.filesystem.unstrip_protocol(path))

    def _refuse_without(self, root: str | None) -> None:
        """Refuse to write where the root was and is gone, where the write would make it again."""

    def _is_glob(self, pattern: str) -> bool:
        return bool(set(pattern) & set(GLOB_CHARACTERS))

    def _right_in(self, path: str, look: Callable[[], Iterable[Found]]) -> list[Found]:
        """What `look` finds right in a folder; nothing where the folder does not exist."""
        telemetry.request("list", path)
        try:
            with named_errors(path):
                return list(look())
        except MissingError:
            return []

    def _files_in(self, path: str, edges: Sequence[str]) -> Iterable[ObjectInfo]:  # noqa: ARG002  (one request)
        for entry in self.filesystem.ls(path, detail=True):
            if entry["type"] == "file":
                with suppress(FileNotFoundError):  # gone since it was listed
                    yield self._info(entry)

    def _below(self, folder: str) -> dict[str, ObjectInfo]:
        root = self.strip(folder)
        found = self.filesystem.find(root, detail=True)
        return {
            path.removeprefix(root).lstrip("/"): self._info(info)
            for path, info in found.items()
            if info["type"] == "file" and not path.endswith("/")
        }

    def _search(self, pattern: str) -> dict[str, dict[str, Any]]:
        search = self._matches if self._is_glob(pattern) else partial(self.filesystem.find, detail=True)
        # An object whose name ends with a slash is how some tools make an empty folder.
        return {
            path: info
            for path, info in search(pattern).items()
            if info["type"] == "file" and not path.endswith("/")
        }

    def _matches(self, pattern: str) -> dict[str, dict[str, Any]]:
        """What a glob matches. Not fsspec's own, which leaves out folders that could not be listed."""
        parts = self.strip(pattern).split("/")
        first = next(at for at, part in enumerate(parts) if set(part) & set(GLOB_CHARACTERS))
        folders, found = ["/".join(parts[:first])], {}
        for end in range(first + 1, len(parts) + 1):
            deep = "**" in parts[end - 1]
            wanted = parts if deep else parts[:end]
            matches = re.compile(glob_translate("/".join(wanted))).match
            found = {path: info for path, info in self._entries(folders, deep) if matches(path)}
            if deep:
                break
            folders = [path for path, info in found.items() if info["type"] == "directory"]
        return found

    def _entries(self, folders: Sequence[str], deep: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        """What lies in these folders, or anywhere below them."""

        def entries(folder: str) -> dict[str, dict[str, Any]]:
            if deep:
                return dict(self.filesystem.find(folder, detail=True))
            try:
                return {info["name"]: info for info in self.filesystem.ls(folder, detail=True)}
            except FileNotFoundError as error:
                if code(error) == "NoSuchBucket":
                    raise
                return {}  # gone since it was listed

        with ThreadPoolExecutor(LIST_THREADS) as pool:
            for found in pool.map(entries, folders):
                yield from found.items()

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(self.full(info["name"]), int(info["size"]), version_of(info), _changed(info))

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:  # noqa: ARG002  (fsspec asks)
        # Without fsspec's cache: its blocks of 50 MB are 14 to 400 times what our readers ask for.
        file = self.filesystem.open(path, "rb", cache_type="none")
        return pa.PythonFile(NamedFile(file, path), mode="r")

    def _read(self, path: str) -> bytes:
        return bytes(self.filesystem.cat_file(path))

    def _put(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data)

    def _create(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data, mode="create")

    def _replace(self, path: str, data: bytes, expected: str) -> None:  # noqa: ARG002  (refused)
        raise unconditional(path)

    def _copy(self, source: ObjectInfo, target: str) -> None:  # noqa: ARG002  (refused)
        raise unconditional(target)

    def _alike(self, one: ObjectInfo, other: ObjectInfo) -> bool:
        """Whether two objects have the same content."""
        if one.size != other.size:
            return False
        with self.open(one.path) as left, self.open(other.path) as right:
            return all(
                left.read(COMPARED_BYTES) == right.read(COMPARED_BYTES)
                for _ in range(0, one.size, COMPARED_BYTES)
            )


def unconditional(path: str) -> ConfigError:
    """What is said of a storage without conditional replacement."""
    return ConfigError(
        f"{protocol_of(path)}:// can be read, but not written: it has no conditional replacement here",
        path,
        hint=f"set output.path to {' or '.join(WRITABLE)}",
    )


def unfit(unkept: Sequence[str], root: str) -> ConfigError:
    """What is said of a storage that does not keep conditions."""
    return ConfigError(
        "its storage does not keep conditions of writes: runs could undo each other's work without a word",
        root,
        ", ".join(unkept),
        hint=f"set output.path to {' or '.join(WRITABLE)} of a storage that keeps them (docs/storage.md)",
    )


def _answer(attempt: Callable[[], None]) -> str | None:
    """What became of a write whose condition does not hold; None: it was refused for that."""
    try:
        attempt()
    except FileExistsError:
        return None
    except OSError as error:
        if code(error) not in NOT_KNOWN:
            raise
        return f"was answered by {code(error)}"
    return "was ignored"


def version_of(info: Mapping[str, Any]) -> str:
    """What changes whenever an object's content does, of what a driver tells of it."""
    for key in ("ETag", "etag", "blob_id", "xet_hash"):
        if info.get(key):
            return str(info[key]).strip('"')
    changed = info.get("LastModified") or info.get("mtime") or info.get("created")
    return f"{info['size']}-{changed}"


def _changed(info: dict[str, Any]) -> datetime.datetime | None:
    for time in (info.get(key) for key in CHANGED):
        if isinstance(time, int | float):
            return datetime.datetime.fromtimestamp(time, datetime.UTC)
        if isinstance(time, datetime.datetime) and time.tzinfo:
            return time
    return None


class MemoryStorage(Storage):
    """The memory of this process, for tests: conditions hold between its threads."""

    conditional = True
    lock = threading.Lock()

    def _create(self, path: str, data: bytes) -> None:
        with self.lock:
            super()._create(path, data)

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        with self.lock:
            if self.version(path) != expected:
                raise FileExistsError(errno.EEXIST, "another version is there", path)
            self._put(path, data)

    def _copy(self, source: ObjectInfo, target: str) -> None:
        self._create(target, self._read(source.path))


class HubStorage(Storage):
    """The Hugging Face Hub: read only, and its driver keeps listings unless told to drop them."""

    def _search(self, pattern: str) -> dict[str, dict[str, Any]]:
        self.filesystem.invalidate_cache()
        return super()._search(pattern)

    def info(self, path: str) -> ObjectInfo:
        """As above."""
        self.filesystem.invalidate_cache()
        return super().info(path)


class NamedFile:
    """A file whose failures are storage's (inside Arrow they would look like a damaged file), and counted."""

    def __init__(self, file: Any, path: str) -> None:
        self.file, self.path = file, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        """As the file's own."""
        with named_errors(self.path, lost=ReplacedError):
            data = bytes(self.file.read(size))
        telemetry.read(protocol_of(self.path), len(data))
        return data


def _shown(name: str) -> bool:
    """Whether a name right in a folder is one of ours: not hidden, and not a marker's, which is empty."""
    return bool(name) and not name.startswith(".")


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))
