"""Storage behind fsspec: what every backend shares, and all that object stores need."""

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
from pipeline.humanize import plural
from pipeline.storage.error_mapping import LOST, code, map_errors
from pipeline.storage.names import HIDDEN, MARKER, Hidden, first_passed_over

GLOB_CHARACTERS = "*?["
LIST_THREADS = 16
CHANGED = ("LastModified", "last_modified", "mtime", "created")
"""The names that drivers give to the time of an object's last change."""
COMPARED_BYTES = 16 << 20
WRITABLE = ("a folder", "an s3://, gs:// or abfs:// URL")
PROBES = ("one", "other")
NO_VERSION = "0" * 32
NOT_KNOWN = (
    "InvalidArgument",
    "InvalidRequest",
    "MethodNotAllowed",
    "NotImplemented",
    "UnsupportedOperation",
)
"""The error codes of servers that do not know a condition. Other servers ignore the condition."""
Found = TypeVar("Found")
PassedOver = Mapping[str, str]
"""The paths of what does not count, with the reason of each. A folder stands for all that is in it."""
Search = tuple[dict[str, dict[str, Any]], dict[str, str]]
"""The driver's infos of the files found, and what is passed over with the reason; both by path."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object: its full path, its size in bytes, and a version that changes whenever its content does.

    changed: the time of the last change by the clock of the storage; None if the storage does not report it.
    """

    path: str
    size: int
    version: str
    changed: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects that a pattern names; and what it names, but does not count."""

    files: list[ObjectInfo]
    passed_over: PassedOver


class Storage:
    """Object storage behind fsspec."""

    conditional = False
    """True if this storage has `replace` over a version and `copy_if_absent`. A dataset needs both."""

    def __init__(self, filesystem: Any, options: Options | None = None) -> None:
        self.filesystem, self.options = filesystem, options or Options()

    def glob(self, pattern: str, hidden: Hidden = "skip") -> list[ObjectInfo]:
        """Returns the objects that a file, folder or glob names, in the order of their paths.

        Raises:
            MissingError: the pattern names nothing.
        """
        return self.search(pattern, hidden).files

    def search(self, pattern: str, hidden: Hidden = "skip") -> Listing:
        """Returns what `glob` does, and what the pattern names but does not count (`names`).

        Raises:
            MissingError: the pattern names nothing that counts.
        """
        telemetry.count_request("list", pattern)
        named = self.strip(self.root(pattern) if self._is_glob(pattern) else pattern)
        with map_errors(pattern):
            found, passed = self._search(pattern, hidden)
            infos = []
            for path, info in sorted(found.items()):
                if first := first_passed_over(path.removeprefix(named), hidden):
                    passed[f"{named}{first[0]}"] = first[1]
                    continue
                with suppress(FileNotFoundError):  # removed since it was listed
                    infos.append(self._info(info))
        if not infos:
            raise _nothing_found(pattern, passed)
        return Listing(infos, passed)

    def list_files(self, path: str, edges: Sequence[str] = ()) -> dict[str, ObjectInfo]:
        """Returns the objects directly in a folder, by name; none if the folder does not exist.

        Args:
            edges: names, in order, that divide a large folder into about equal parts. If storage lists page
                by page, the parts are listed at the same time.
        """
        infos = self._right_in(path, partial(self._files_in, path, edges))
        named = ((info.path.rpartition("/")[2], info) for info in infos)
        return {name: info for name, info in named if _shown(name)}

    def list_folders(self, path: str) -> list[str]:
        """Returns the names of the folders directly in a folder, in order; none if it does not exist."""
        entries = self._right_in(path, partial(self.filesystem.ls, path, detail=True))
        names = (entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory")
        return sorted(name for name in names if _shown(name))

    def list_recursive(self, folder: str) -> dict[str, ObjectInfo]:
        """Returns all objects below a folder, hidden ones too, by their names relative to it.

        If the folder does not exist, there are none.
        """
        telemetry.count_request("list", folder)
        with map_errors(folder):
            return self._below(folder)

    def info(self, path: str) -> ObjectInfo:
        """Returns size and version of one object.

        Raises:
            MissingError: the object does not exist.
        """
        telemetry.count_request("info", path)
        with map_errors(path):
            return self._info(self.filesystem.info(path))

    def exists(self, path: str) -> bool:
        """Tells whether the object exists."""
        try:
            self.info(path)
        except MissingError:
            return False
        return True

    @contextmanager
    def open(self, path: str, known: ObjectInfo | None = None) -> Iterator[pa.NativeFile]:
        """Opens a seekable file to read, and closes it at the end.

        Args:
            known: the object's entry in a listing, for a caller that does not begin to read at the start.
                Without it, one request brings both the size and the first bytes.
        """
        telemetry.count_request("open", path)
        with map_errors(path), self._open(path, known) as file:
            yield file

    def read(self, path: str) -> bytes:
        """Returns the whole object.

        Raises:
            MissingError: the object does not exist.
            ReplacedError: the object was replaced while it was read.
        """
        telemetry.count_request("read", path)
        with map_errors(path, lost=ReplacedError):
            return self._read(path)

    def put(self, path: str, data: bytes) -> None:
        """Writes an object, whatever was there before."""
        telemetry.count_request("put", path)
        with map_errors(path):
            self._put(path, data)

    def put_if_absent(self, path: str, data: bytes, root: str | None = None) -> None:
        """Writes an object if there is none yet.

        Args:
            root: a folder that holds the object. A folder that existed before is not made again.

        Raises:
            ExistsError: another writer was first, and wrote something else.
            MissingError: the root is gone.
        """
        telemetry.count_request("put", path)
        try:
            with map_errors(path, lost=ExistsError):
                self._refuse_without(root)
                self._create(path, data)
        except ExistsError:
            # Equal content needs no winner. If a backend can't recognize its own writes, it may even be ours.
            if self.info(path).size != len(data) or self.read(path) != data:
                raise

    def replace(self, path: str, data: bytes, expected: str | None) -> None:
        """Writes an object if it still has the expected version (None: if it does not exist).

        Raises:
            ReplacedError: the object has another version, or exists although it should not.
        """
        telemetry.count_request("put", path)
        with map_errors(path, lost=ReplacedError):
            if expected is None:
                self._create(path, data)
            else:
                self._replace(path, data, expected)

    def copy_if_absent(self, source_path: str, target_path: str, root: str | None = None) -> None:
        """Copies an object within this storage if the target does not exist yet.

        The bytes do not pass through this process, with one exception: if the target exists and nothing else
        tells what it is, both objects are read and compared.

        Args:
            root: see `put_if_absent`.

        Raises:
            MissingError: the source does not exist.
            ReplacedError: the source was replaced before it was copied.
            ExistsError: something else is at the target.
        """
        self._refuse_without(root)
        source = self.info(source_path)
        telemetry.count_request("copy", target_path)
        try:
            with map_errors(target_path, lost=ExistsError):
                self._copy(source, target_path)
        except (ExistsError, MissingError) as error:
            # The copy may be ours (its answer was lost) or a rival's. Equal content needs no winner.
            taken = self.exists(target_path)
            if taken and self._alike(source, self.info(target_path)):
                return
            # A server does not say which of two conditions it refused.
            if self.info(source_path).version != source.version:
                raise ReplacedError(LOST[ReplacedError], source_path) from None
            if isinstance(error, ExistsError) and not taken:
                raise StorageError("was refused without a reason", target_path, hint="run again") from error
            raise

    def remove(self, path: str) -> None:
        """Removes an object, if it exists."""
        telemetry.count_request("remove", path)
        with suppress(MissingError), map_errors(path):
            self.filesystem.rm_file(path)

    def remove_empty_folder(self, path: str) -> None:
        """Removes an empty folder. On object stores a folder disappears with its last object."""

    def version(self, path: str) -> str | None:
        """Returns the version of an object, as `replace` expects it; None if the object does not exist."""
        try:
            return self.info(path).version
        except MissingError:
            return None

    def same(self, planned: str, found: str) -> bool:
        """Tells whether the version that was found is the one that was planned."""
        return planned == found

    def prove(self, root: str) -> None:
        """Checks, with two small objects below a root, that this storage keeps the conditions of our writes.

        Some S3-compatible servers ignore conditions. There, rivals silently undo each other's work.

        Raises:
            ConfigError: a write was carried out although its condition did not hold.
            StorageError: storage failed.
        """
        with map_errors(root):
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
        """Returns writes to an existing object, by the name of the condition. No condition holds."""
        return {
            "put-if-absent": partial(self._create, path, b"3"),
            "replace-if": partial(self._replace, path, b"3", NO_VERSION),
            "copy-if-absent": partial(self._copy, source, path),
        }

    def _probe_folder(self, root: str) -> str:
        """Returns a separate folder below a root, for `prove` to write to."""
        return f"{root}/.probe-{uuid.uuid4().hex}"

    def _remove_probe(self, folder: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                self.remove(f"{folder}/{name}")
            except StorageError as error:  # the right to write does not include the right to remove
                telemetry.event("left behind", path=f"{folder}/{name}", reason=str(error))

    def abort_unfinished_uploads(self, folder: str, ours: Callable[[str], bool]) -> int:  # noqa: ARG002  (there are none here)
        """Removes what unfinished uploads left below a folder, and returns their number.

        Call it only after all writers have ended: it also aborts uploads that are under way.

        Args:
            ours: tells whether a name, relative to the folder, is one that this program writes.
        """
        return 0

    def root(self, pattern: str) -> str:
        """Returns the folder that file names of a pattern are relative to.

        For a glob it is the longest folder without wildcards. For a path without wildcards it is the parent
        folder, so that files and folders are treated alike.
        """
        parts = self.strip(pattern).rstrip("/").split("/")
        end = max(1, len(parts) - 1)  # a bucket has no parent folder
        if self._is_glob(pattern):
            end = next(at for at, part in enumerate(parts) if set(part) & set(GLOB_CHARACTERS))
        return self.full("/".join(parts[:end]))

    def relative(self, pattern: str, path: str) -> str:
        """Returns the name of a file that a pattern found, relative to the pattern's root."""
        # Only one slash is removed: on object stores `a//b` and `a/b` are different names.
        return self.strip(path).removeprefix(self.strip(self.root(pattern))).removeprefix("/")

    def strip(self, path: str) -> str:
        """Returns a path as the backend knows it: absolute and without its protocol."""
        return str(self.filesystem._strip_protocol(path))

    def full(self, path: str) -> str:
        """Returns a backend's path with its protocol."""
        return str(self.filesystem.unstrip_protocol(path))

    def _refuse_without(self, root: str | None) -> None:
        """Refuses a write that would make a root again which existed and is gone."""

    def _is_glob(self, pattern: str) -> bool:
        return bool(set(pattern) & set(GLOB_CHARACTERS))

    def _right_in(self, path: str, look: Callable[[], Iterable[Found]]) -> list[Found]:
        """Returns what `look` finds directly in a folder; nothing if the folder does not exist."""
        telemetry.count_request("list", path)
        try:
            with map_errors(path):
                return list(look())
        except MissingError:
            return []

    def _files_in(self, path: str, edges: Sequence[str]) -> Iterable[ObjectInfo]:  # noqa: ARG002  (one request)
        for entry in self.filesystem.ls(path, detail=True):
            if entry["type"] == "file":
                with suppress(FileNotFoundError):  # removed since it was listed
                    yield self._info(entry)

    def _below(self, folder: str) -> dict[str, ObjectInfo]:
        root = self.strip(folder)
        found = self.filesystem.find(root, detail=True)
        return {
            path.removeprefix(root).lstrip("/"): self._info(info)
            for path, info in found.items()
            if info["type"] == "file" and not path.endswith("/")
        }

    def _search(self, pattern: str, hidden: Hidden) -> Search:  # noqa: ARG002  (names are judged later)
        """Returns the files that a pattern names, and the objects that only stand for a folder."""
        search = self._matches if self._is_glob(pattern) else partial(self.filesystem.find, detail=True)
        found = {path: info for path, info in search(pattern).items() if info["type"] == "file"}
        # Some tools make an empty folder as an object: its name ends with a slash, or is the folder's own.
        empty = [path for path, info in found.items() if not info["size"]]
        folders = {folder for path in found for folder in _folders(path)} if empty else set()
        markers = {path for path in empty if path in folders} | {path for path in found if path.endswith("/")}
        kept = {path: info for path, info in found.items() if path not in markers}
        return kept, dict.fromkeys(markers, MARKER)

    def _matches(self, pattern: str) -> dict[str, dict[str, Any]]:
        """Returns what a glob matches. fsspec's own glob leaves out folders that it could not list."""
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
        """Yields what lies in these folders, or anywhere below them."""

        def entries(folder: str) -> dict[str, dict[str, Any]]:
            if deep:
                return dict(self.filesystem.find(folder, detail=True))
            try:
                return {info["name"]: info for info in self.filesystem.ls(folder, detail=True)}
            except FileNotFoundError as error:
                if code(error) == "NoSuchBucket":
                    raise
                return {}  # removed since it was listed

        with ThreadPoolExecutor(LIST_THREADS) as pool:
            for found in pool.map(entries, folders):
                yield from found.items()

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(self.full(info["name"]), int(info["size"]), version_of(info), _changed(info))

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:  # noqa: ARG002  (fsspec asks)
        # fsspec's cache is off: its blocks of 50 MB are 14 to 400 times the size of our reads.
        file = self.filesystem.open(path, "rb", cache_type="none")
        return pa.PythonFile(NamedFile(file, path), mode="r")

    def _read(self, path: str) -> bytes:
        return bytes(self.filesystem.cat_file(path))

    def _put(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data)

    def _create(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data, mode="create")

    def _replace(self, path: str, data: bytes, expected: str) -> None:  # noqa: ARG002  (refused)
        raise no_conditional_writes(path)

    def _copy(self, source: ObjectInfo, target: str) -> None:  # noqa: ARG002  (refused)
        raise no_conditional_writes(target)

    def _alike(self, one: ObjectInfo, other: ObjectInfo) -> bool:
        """Tells whether two objects have the same content."""
        if one.size != other.size:
            return False
        with self.open(one.path) as left, self.open(other.path) as right:
            return all(
                left.read(COMPARED_BYTES) == right.read(COMPARED_BYTES)
                for _ in range(0, one.size, COMPARED_BYTES)
            )


def no_conditional_writes(path: str) -> ConfigError:
    """Returns the error for a storage without conditional replacement."""
    return ConfigError(
        f"{protocol_of(path)}:// can be read, but not written: it has no conditional replacement here",
        path,
        hint=f"set output.path to {' or '.join(WRITABLE)}",
    )


def unfit(unkept: Sequence[str], root: str) -> ConfigError:
    """Returns the error for a storage that does not keep conditions."""
    return ConfigError(
        "its storage does not keep conditions of writes: runs could silently undo each other's work",
        root,
        ", ".join(unkept),
        hint=f"set output.path to {' or '.join(WRITABLE)} of a storage that keeps them (docs/storage.md)",
    )


def _answer(attempt: Callable[[], None]) -> str | None:
    """Says how storage treated a write whose condition does not hold; None if it refused the write."""
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
    """Returns the part of a driver's info that changes whenever the object's content does."""
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
    """The memory of this process, for tests. Conditions hold between its threads."""

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

    def _alike(self, one: ObjectInfo, other: ObjectInfo) -> bool:
        # Open files of one object share their position here, so threads can't read side by side.
        return self._read(one.path) == self._read(other.path)


class HubStorage(Storage):
    """The Hugging Face Hub, read only. Its driver caches listings, so the cache is dropped before each."""

    def _search(self, pattern: str, hidden: Hidden) -> Search:
        self.filesystem.invalidate_cache()
        return super()._search(pattern, hidden)

    def info(self, path: str) -> ObjectInfo:
        """Returns size and version of one object, past the driver's cache."""
        self.filesystem.invalidate_cache()
        return super().info(path)


class NamedFile:
    """A file that counts what is read, and raises failures as `StorageError`s.

    Inside Arrow a failure of storage would look like a damaged file.
    """

    def __init__(self, file: Any, path: str) -> None:
        self.file, self.path = file, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        """Reads as the file itself does."""
        with map_errors(self.path, lost=ReplacedError):
            data = bytes(self.file.read(size))
        telemetry.count_read(protocol_of(self.path), len(data))
        return data


def _shown(name: str) -> bool:
    """Tells whether a name in a folder counts: it is not hidden, and not a folder marker's empty name."""
    return bool(name) and not name.startswith(".")


def _folders(path: str) -> Iterator[str]:
    """Yields all folders that a path lies in."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _nothing_found(pattern: str, passed: Mapping[str, str]) -> MissingError:
    hint = "check the path and its wildcards"
    if "[" in pattern:
        hint += "; `[` begins a set of characters: write `[[]` for a bracket"
    if HIDDEN in passed.values():
        hint += "; the source's `hidden: dots` or `read` lets hidden names count"
    first = min(passed, default="")
    got = f"{plural(len(passed), 'name')} that do not count, {first} among them" if passed else ""
    return MissingError("no file here", pattern, got, hint)
