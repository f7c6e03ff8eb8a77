"""Gives Google's and Azure's stores what they share: retries in one place, reads of one version, conditions.

A `Client` sends requests. None of their libraries may repeat one: nobody would count that. An `ObjectStorage`
makes the promises of `Storage` of them.
"""

import abc
import errno
import io
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.config.location import Options
from pipeline.storage.base import NamedFile, ObjectInfo, Storage, version_of
from pipeline.storage.error_mapping import RefusalError, code, is_unreachable
from pipeline.storage.object_file import ObjectFile
from pipeline.storage.retry import repeated

PART_BYTES = 16 << 20
"""Bytes of a large object that one request reads. A cut connection costs no more than this."""
PARTS_AT_ONCE = 16
LISTINGS_AT_ONCE = 16
FIRST_BYTES = 128 << 10
"""Bytes that opening an object reads. It costs no more than asking for the size, and covers small objects."""
NONCE = "write"
"""The name of the metadata by which a write recognizes its own object."""
ABSENT = ""
"""The condition of a write that there is no object yet. Other conditions are the version that it has."""
REFUSED = ("PreconditionFailed", "InvalidBlockList", "NoSuchKey")
"""Codes of a refused condition. The repetition of a write that was carried out gets them, too."""
CONNECT_SECONDS, READ_SECONDS = 5, 30
"""How long a server may take to accept a connection, and how long it may say nothing."""

T = TypeVar("T")
Info = dict[str, Any]
"""What a listing tells of an object or a folder, by the names that fsspec's drivers use."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first bytes of an object, its size, and a pin (see `Client.get`)."""

    data: bytes
    size: int
    pin: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing, and the token of the next part; None if there is none."""

    infos: list[Info]
    token: str | None


class Client(abc.ABC):
    """The requests of one store. Each is repeated while its failure may pass, and fails as `OSError`."""

    ranged = False
    """True if a page can begin at any key, so that parts of a folder can be listed at the same time."""

    def __init__(self, protocol: str, options: Options) -> None:
        self.protocol, self.options, self.answered = protocol, options, False
        self.parts = ThreadPoolExecutor(PARTS_AT_ONCE)
        self.joins = ThreadPoolExecutor(PARTS_AT_ONCE)
        """Threads that only wait for `parts`: in one pool they could wait for each other."""

    @abc.abstractmethod
    def page(self, bucket: str, prefix: str, deep: bool, start: str, token: str | None) -> Page:
        """Returns a page of a listing.

        Args:
            deep: list all objects below the prefix, instead of its own objects and folders.
            start: the first key to list, if the store is `ranged`; empty for all.
            token: from the page before.
        """

    @abc.abstractmethod
    def head(self, bucket: str, key: str) -> Info:
        """Returns what is known of an object; besides the names of a listing, `pin` and `nonce`."""

    @abc.abstractmethod
    def get(self, bucket: str, key: str, start: int, stop: int, pin: str | None = None) -> Beginning:
        """Returns the bytes [start, stop) of an object.

        Args:
            pin: what makes a read fail with `FileExistsError` if the object was replaced.
        """

    @abc.abstractmethod
    def put(self, bucket: str, key: str, data: bytes, nonce: str, condition: str | None) -> None:
        """Writes an object and its nonce, if the condition holds. `FileExistsError`: it does not."""

    @abc.abstractmethod
    def copy(self, source: Info, bucket: str, key: str) -> None:
        """Copies one version of an object, and its nonce, if there is no target yet."""

    @abc.abstractmethod
    def delete(self, bucket: str, key: str) -> None:
        """Removes an object."""

    @abc.abstractmethod
    def translated(self, error: Exception) -> Exception:
        """Returns the `OSError` for a failure of the store's library; any other error as it is."""

    @abc.abstractmethod
    def pin(self, path: str, version: str) -> str:
        """Returns what `get` needs to read the version that a listing named."""

    @abc.abstractmethod
    def impossible(self, bucket: str, key: str, source: Info) -> dict[str, Callable[[], None]]:
        """Returns writes to an existing object, by the name of the condition, which does not hold."""

    def sent(self, request: Callable[[], T]) -> T:
        """Returns the answer to a request; every request goes through here."""

        def attempt() -> T:
            try:
                return request()
            except Exception as error:
                told = self.translated(error)
                if told is error:
                    raise
                raise told from (told.__cause__ or error)

        try:
            answer = repeated(attempt, self.answered)
        except Exception as error:
            self.answered |= not is_unreachable(error)
            raise
        self.answered = True
        return answer

    def split(self, path: str) -> tuple[str, str]:
        """Returns bucket and key of a path or URL."""
        bucket, _, key = self._strip_protocol(path).partition("/")
        return bucket, key

    def beginning(self, path: str, count: int | None = None) -> Beginning:
        """Returns the first bytes of an object, and what is needed to read the rest."""
        try:
            return self.get(*self.split(path), 0, count or FIRST_BYTES)
        except OSError as error:
            if code(error) == "InvalidRange":  # an empty object has no first byte
                return Beginning(b"", 0, "")
            raise

    def ask(self, path: str, pin: str, start: int, stop: int) -> Future[bytes]:
        """Requests the bytes [start, stop) of one version, in parts that are read at the same time."""
        bucket, key = self.split(path)
        cuts = range(start, stop, PART_BYTES)
        parts = [
            self.parts.submit(self._bytes, bucket, key, at, min(at + PART_BYTES, stop), pin) for at in cuts
        ]
        return parts[0] if len(parts) == 1 else self.joins.submit(_joined, parts)

    def _bytes(self, bucket: str, key: str, start: int, stop: int, pin: str) -> bytes:
        return self.get(bucket, key, start, stop, pin).data

    def infos(self, bucket: str, prefix: str, deep: bool, start: str = "", stop: str = "") -> Iterator[Info]:
        """Yields what lies below a prefix: keys in [start, stop), page by page."""
        token: str | None = None
        while True:
            page = self.page(bucket, prefix, deep, start, token)
            for info in page.infos:
                # A page tells its folders after its objects, so only an object shows how far it has come.
                if stop and info["type"] == "file" and info["name"] >= f"{bucket}/{stop}":
                    return
                yield info
            if (token := page.token) is None:
                return

    # The names of fsspec, which `Storage` uses.

    def _strip_protocol(self, path: str) -> str:
        return path.removeprefix(f"{self.protocol}://").rstrip("/")

    def unstrip_protocol(self, path: str) -> str:
        """Returns the URL of a path."""
        return path if path.startswith(f"{self.protocol}://") else f"{self.protocol}://{path}"

    def ls(self, path: str, detail: bool = True) -> list[Info]:  # noqa: ARG002
        """Returns the objects and folders directly in a folder."""
        bucket, prefix = self._below(path)
        own = f"{bucket}/{prefix}"
        return [info for info in self.infos(bucket, prefix, deep=False) if info["name"] != own]

    def find(self, path: str, detail: bool = True) -> dict[str, Info]:  # noqa: ARG002
        """Returns all objects below a folder, or the object itself."""
        bucket, prefix = self._below(path)
        found = {info["name"]: info for info in self.infos(bucket, prefix, deep=True)}
        if not found and prefix:
            with suppress(FileNotFoundError):
                alone = self.info(path)
                return {alone["name"]: alone}
        return found

    def info(self, path: str) -> Info:
        """Returns what is known of one object."""
        return self.head(*self.split(path))

    def rm_file(self, path: str) -> None:
        """Removes an object."""
        bucket, key = self.split(path)
        self.delete(bucket, key)

    def _below(self, path: str) -> tuple[str, str]:
        bucket, key = self.split(path)
        return bucket, key and f"{key}/"


def refused(status: int, name: str, text: str) -> OSError:
    """Returns the error for an answer of a server, in the form in which `error_mapping` reads it."""
    shown = " ".join(f"{status} {name}: {text}".split())
    kinds: dict[int, type[OSError]] = {
        401: PermissionError, 403: PermissionError, 404: FileNotFoundError, 412: FileExistsError,
    }  # fmt: skip
    error = kinds.get(status, OSError)(shown)
    error.__cause__ = RefusalError(status, name)
    return error


def no_bucket(error: OSError) -> OSError:
    """Returns the error for a missing bucket, where a server only says that something is missing."""
    return refused(404, "NoSuchBucket", str(error))


def no_credentials(text: str) -> OSError:
    """Returns the error for credentials that could not even be found or fetched."""
    error = PermissionError(text.strip().partition("\n")[0])
    error.__cause__ = RefusalError(0, "NoCredentials")
    return error


def _joined(parts: Sequence[Future[bytes]]) -> bytes:
    # One buffer, which is returned without a copy: joining parts would need twice the memory.
    whole = io.BytesIO()
    try:
        for part in parts:
            whole.write(part.result())
    finally:
        for part in parts:
            part.cancel()
    return whole.getvalue()


class ObjectStorage(Storage):
    """A store behind a `Client`."""

    conditional = True
    filesystem: Client

    def _info(self, info: Mapping[str, Any]) -> ObjectInfo:
        return ObjectInfo(
            self.full(info["name"]), int(info["size"]), version_of(info), info.get("last_modified")
        )

    def _read(self, path: str) -> bytes:
        first = self.filesystem.beginning(path, PART_BYTES)
        if len(first.data) >= first.size:
            return first.data
        return first.data + self.filesystem.ask(path, first.pin, len(first.data), first.size).result()

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:
        client = self.filesystem
        if known:
            first = Beginning(b"", known.size, client.pin(path, known.version))
        else:
            first = client.beginning(path)
        request = partial(client.ask, path, first.pin)
        return pa.PythonFile(
            NamedFile(ObjectFile(request, first.size, PART_BYTES, first.data), path), mode="r"
        )

    def _files_in(self, path: str, edges: Sequence[str]) -> Iterator[ObjectInfo]:
        """Yields the objects directly in a folder; ranges of keys are listed at the same time."""
        client = self.filesystem
        bucket, prefix = client._below(path)
        starts = ["", *(prefix + edge for edge in edges)] if client.ranged else [""]
        stops = [*starts[1:], ""]

        def between(start: str, stop: str) -> list[ObjectInfo]:
            # The entries are converted at once: a million dictionaries take two gigabytes.
            found = client.infos(bucket, prefix, False, start, stop)
            return [self._info(info) for info in found if info["type"] == "file"]

        if len(starts) == 1:
            yield from between("", "")
            return
        with ThreadPoolExecutor(LISTINGS_AT_ONCE) as pool:
            for found in pool.map(between, starts, stops):
                yield from found

    def _put(self, path: str, data: bytes) -> None:
        self._write(path, data, None)

    def _create(self, path: str, data: bytes) -> None:
        self._write(path, data, ABSENT)

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        self._write(path, data, expected)

    def _write(self, path: str, data: bytes, condition: str | None) -> None:
        """Writes under a condition. A refusal counts only if the object is not the result of this very write.

        Raises:
            FileExistsError: the condition does not hold.
        """
        bucket, key = self.filesystem.split(path)
        nonce = uuid.uuid4().hex
        try:
            self.filesystem.put(bucket, key, data, nonce, condition)
        except OSError as error:
            if not isinstance(error, FileExistsError) and code(error) not in REFUSED:
                raise
            # The answer to our write may have been lost; then its repetition met the object that it had
            # written.
            standing = self._nonce(path)
            if standing == nonce:
                return
            if condition or (condition == ABSENT and standing is not None):
                raise FileExistsError(errno.EEXIST, "the condition does not hold", path) from error
            raise OSError(errno.EAGAIN, f"refused ({code(error)}) without a reason") from error

    def _copy(self, source: ObjectInfo, target: str) -> None:
        client = self.filesystem
        found = client.info(source.path)
        if version_of(found) != source.version:
            raise FileExistsError(errno.EEXIST, "the source was replaced", source.path)
        client.copy(found, *client.split(target))

    def _impossible(self, path: str, source: ObjectInfo) -> dict[str, Callable[[], None]]:
        """Returns one write per request and condition, because servers support them one by one."""
        client = self.filesystem
        return client.impossible(*client.split(path), client.info(source.path))

    def _nonce(self, path: str) -> str | None:
        """Returns the nonce of the write that made an object (see `s3`); None if there is no object."""
        try:
            return str(self.filesystem.info(path)["nonce"])
        except FileNotFoundError:
            return None

    def _alike(self, one: ObjectInfo, other: ObjectInfo) -> bool:
        """Tells whether two objects have the same content.

        Objects of the same write do: a copy keeps the nonce of its original.
        """
        if one.size != other.size:
            return False
        nonces = [self._nonce(info.path) for info in (one, other)]
        return bool(nonces[0] and nonces[0] == nonces[1]) or super()._alike(one, other)
