"""S3 through s3fs: with retries in one place, reads of one version, and writes that know themselves again.

Neither botocore nor s3fs retries here (`BOTOCORE` and `S3.retries` see to that): between them they try a
request up to 25 times, and count none of it. Every request goes through `S3._call_s3`, every body through
`S3._get`. Only aiohttp still sends a request again, once, that met a connection closed by the server.
"""

import asyncio
import errno
import io
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any

import pyarrow as pa
import s3fs
from botocore.exceptions import IncompleteReadError
from fsspec.asyn import sync_wrapper

from pipeline.storage.base import NO_VERSION, NamedFile, ObjectInfo, Storage, version_of
from pipeline.storage.error_mapping import code, is_unreachable, named_errors
from pipeline.storage.read_ahead import Ahead
from pipeline.storage.retry import retried
from pipeline.storage.s3_listing import parse_early

PART_BYTES = 16 << 20
"""What one request reads or writes of a large object: a cut connection costs no more."""
PARTS_AT_ONCE = 8
FIRST_BYTES = 128 << 10
"""What is read of an object when it is opened: no more than a look at it costs, and all of a small one."""
MULTIPART_BYTES = 64 << 20
"""Up to here one request writes an object."""
COPY_BYTES, COPY_PART_BYTES = 1 << 30, 256 << 20
"""Up to here one request copies an object. S3 takes five times as much, but says nothing for as long as it
copies, and who hears nothing for half a minute asks again."""
PAGE_KEYS = 1000
NONCE = "write"
"""The name of the metadata by which a write knows what it wrote."""
REFUSED = ("PreconditionFailed", "NoSuchUpload", "NoSuchKey")
"""What a refused condition may be called; also what the repetition of a write gets that was carried out."""
BOTOCORE = {
    "retries": {"mode": "standard", "total_max_attempts": 1},
    "connect_timeout": 5,
    "read_timeout": 30,
    "max_pool_connections": 32,
}


class S3(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """The driver."""

    retries = 1
    answered = False
    told: Any = None
    """The client that knows already how pages are parsed."""

    async def set_session(self, *arguments: Any, **keywords: Any) -> Any:
        """As s3fs: the client, made where there is none yet; its listings are parsed by us."""
        client = await super().set_session(*arguments, **keywords)
        if client is not self.told:
            parse_early(client)
            self.told = client
        return client

    async def _call_s3(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        return await self._retried(partial(super()._call_s3, method, *arguments, **keywords))

    call_s3 = sync_wrapper(_call_s3)

    async def _retried(self, attempt: Any) -> Any:
        try:
            answer = await retried(attempt, self.answered)
        except Exception as error:
            self.answered |= not is_unreachable(error)
            raise
        self.answered = True
        return answer

    async def _get(self, path: str, start: int, stop: int, etag: str | None = None) -> tuple[bytes, Any]:
        """The bytes [start, stop) of an object, and the answer's fields; of one version, if it is named."""
        bucket, key, _ = self.split_path(path)
        wanted = {"Range": f"bytes={start}-{stop - 1}"} | ({"IfMatch": etag} if etag else {})
        request = partial(super()._call_s3, "get_object", Bucket=bucket, Key=key, **wanted)

        async def attempt() -> tuple[bytes, Any]:
            answer = await request()
            async with answer["Body"] as body:
                data = await body.read()
            if len(data) != answer["ContentLength"]:
                raise IncompleteReadError(actual_bytes=len(data), expected_bytes=answer["ContentLength"])
            return data, answer

        data, answer = await self._retried(attempt)
        return data, answer

    async def _read(self, path: str) -> bytes:
        """The whole object: of one version, in parts that are read at the same time."""
        size, etag, first = await self._beginning(path, PART_BYTES)
        return await self._range(path, 0, size, etag, first)

    async def _beginning(self, path: str, count: int | None = None) -> tuple[int, str, bytes]:
        """Size and etag of an object, and its first bytes, all with one request."""
        try:
            first, answer = await self._get(path, 0, count or FIRST_BYTES)
        except OSError as error:
            if code(error) == "InvalidRange":  # an empty object has no first byte
                return 0, "", b""
            raise
        size = int(answer.get("ContentRange", f"/{len(first)}").rsplit("/", 1)[1])
        return size, str(answer["ETag"]), first

    async def _range(self, path: str, start: int, stop: int, etag: str, first: bytes = b"") -> bytes:
        """The bytes [start, stop) of one version, in parts that are read at the same time.

        Args:
            first: those of them that are here already.
        """
        if stop - start == len(first):
            return first
        if stop - start <= PART_BYTES:
            return (await self._get(path, start, stop, etag))[0]
        # Filled in place, and handed out without a copy: joining parts would touch twice the memory.
        whole, gate = io.BytesIO(), asyncio.Semaphore(PARTS_AT_ONCE)
        whole.seek(stop - start - 1)
        whole.write(b"\0")
        whole.seek(0)
        whole.write(first)

        async def part(at: int) -> None:
            async with gate:
                data, _ = await self._get(path, at, min(at + PART_BYTES, stop), etag)
            whole.seek(at - start)
            whole.write(data)

        await asyncio.gather(*(part(at) for at in range(start + len(first), stop, PART_BYTES)))
        return whole.getvalue()

    async def _files_in(self, path: str, edges: Sequence[str]) -> list[ObjectInfo]:
        """The objects right in a folder: its first page, and what is behind it in stretches side by side."""
        bucket, key, _ = self.split_path(path)
        prefix = f"{key.rstrip('/')}/"
        first, more = await self._page(bucket, prefix, prefix)
        pages = [_infos(bucket, prefix, first)]
        if more is not None:
            last = first[-1]["Key"] if first else prefix
            starts = [last, *(prefix + edge for edge in edges if prefix + edge > last)]
            ends = zip(starts, [*starts[1:], None], strict=True)
            pages += await asyncio.gather(*(self._stretch(bucket, prefix, *each) for each in ends))
        return [info for page in pages for info in page]

    async def _stretch(self, bucket: str, prefix: str, start: str, stop: str | None) -> list[ObjectInfo]:
        """The objects right in a folder whose keys are in (start, stop], page by page."""
        found: list[ObjectInfo] = []
        more: str | None = ""
        while more is not None:
            page, more = await self._page(bucket, prefix, start, more)
            # Not kept as they came: a million dictionaries are two gigabytes.
            found += _infos(bucket, prefix, (each for each in page if stop is None or each["Key"] <= stop))
            if stop is not None and page and page[-1]["Key"] >= stop:
                break
        return found

    async def _page(
        self, bucket: str, prefix: str, after: str, token: str = ""
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Up to a thousand entries, or none, whose keys come after one; and the token of those behind them.

        Args:
            token: of an answer before, with the same `after`; it says where to go on.
        """
        where = {"ContinuationToken": token} if token else {"StartAfter": after}
        answer = await self._call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE_KEYS, **where
        )
        if not answer.get("IsTruncated"):
            return answer.get("Contents", []), None
        if not (token := answer.get("NextContinuationToken", "")):
            raise OSError(errno.EIO, "a listing ends before its end, without a token to go on", bucket)
        return answer.get("Contents", []), token

    files_in = sync_wrapper(_files_in)

    def ask(self, path: str, etag: str, start: int, stop: int) -> Future[bytes]:
        """The bytes [start, stop) of one version, as soon as they are here."""
        return asyncio.run_coroutine_threadsafe(self._range(path, start, stop, etag), self.loop)

    read, beginning = sync_wrapper(_read), sync_wrapper(_beginning)

    async def _publish(
        self, path: str, data: bytes, condition: Mapping[str, str], nonce: str, at_once: int = MULTIPART_BYTES
    ) -> None:
        """Write an object if the condition holds, whole or not at all.

        Args:
            at_once: up to how many bytes go with one request.
        """
        bucket, key, _ = self.split_path(path)
        place, metadata = {"Bucket": bucket, "Key": key}, {"Metadata": {NONCE: nonce}}
        if len(data) <= at_once:
            await self._call_s3("put_object", **place, Body=data, **metadata, **condition)
            return
        await self._in_parts(place, metadata, condition, partial(self._upload, data))

    async def _copy(self, path: str, target: str, size: int, etag: str, condition: Mapping[str, str]) -> None:
        """Copy one version of an object if the condition holds for the target, which gets its nonce, too."""
        bucket, key, _ = self.split_path(path)
        source = {"CopySource": {"Bucket": bucket, "Key": key}, "CopySourceIfMatch": etag}
        bucket, key, _ = self.split_path(target)
        place = {"Bucket": bucket, "Key": key}
        if size <= COPY_BYTES:
            await self._call_s3("copy_object", **place, **source, **condition)
            return
        metadata = {"Metadata": {NONCE: await self._nonce(path) or ""}}
        await self._in_parts(place, metadata, condition, partial(self._upload_copies, source, size))

    async def _in_parts(
        self,
        place: Mapping[str, str],
        metadata: Mapping[str, Any],
        condition: Mapping[str, str],
        send: Callable[[Mapping[str, str]], Awaitable[list[dict[str, Any]]]],
    ) -> None:
        """Make an object of the parts that `send` sends; if the condition does not hold, nothing is left."""
        upload = await self._call_s3("create_multipart_upload", **place, **metadata)
        place = {**place, "UploadId": upload["UploadId"]}
        try:
            parts = {"Parts": await send(place)}
            await self._call_s3("complete_multipart_upload", **place, MultipartUpload=parts, **condition)
        except BaseException:
            with suppress(Exception):  # what failed is what is told; `sweep` finds what is left
                await self._call_s3("abort_multipart_upload", **place)
            raise

    async def _upload(self, data: bytes, place: Mapping[str, str]) -> list[dict[str, Any]]:
        """Send the parts of an object; what its completion must name."""
        view = memoryview(data)

        async def part(number: int) -> str:
            body = bytes(view[(number - 1) * PART_BYTES : number * PART_BYTES])
            answer = await self._call_s3("upload_part", **place, PartNumber=number, Body=body)
            return str(answer["ETag"])

        return await _parts(ceil(len(data) / PART_BYTES), part)

    async def _upload_copies(
        self, source: Mapping[str, Any], size: int, place: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Have the parts of an object copied; what its completion must name."""

        async def part(number: int) -> str:
            start, stop = (number - 1) * COPY_PART_BYTES, min(number * COPY_PART_BYTES, size)
            wanted = {"PartNumber": number, "CopySourceRange": f"bytes={start}-{stop - 1}"}
            answer = await self._call_s3("upload_part_copy", **place, **source, **wanted)
            return str(answer["CopyPartResult"]["ETag"])

        return await _parts(ceil(size / COPY_PART_BYTES), part)

    async def _nonce(self, path: str) -> str | None:
        """Of which write the object is, empty if it is none of ours; None where there is no object."""
        bucket, key, _ = self.split_path(path)
        try:
            head = await self._call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return str(head["Metadata"].get(NONCE, ""))

    async def _sweep(self, path: str, ours: Callable[[str], bool]) -> int:
        """Abort the unfinished uploads of those objects below a path that are ours; how many there were."""
        bucket, key, _ = self.split_path(path)
        prefix = key and f"{key}/"
        place = {"Bucket": bucket, "Prefix": prefix}
        swept, more = 0, True
        while more:
            page = await self._call_s3("list_multipart_uploads", **place)
            for upload in page.get("Uploads", []):
                if not ours(upload["Key"].removeprefix(prefix)):
                    continue
                found = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                with suppress(FileNotFoundError):  # finished or aborted since it was listed
                    await self._call_s3("abort_multipart_upload", **found)
                swept += 1
            more = page.get("IsTruncated", False)
            place |= {name: page.get(f"Next{name}", "") for name in ("KeyMarker", "UploadIdMarker")}
        return swept

    publish, copy_version = sync_wrapper(_publish), sync_wrapper(_copy)
    nonce, sweep = sync_wrapper(_nonce), sync_wrapper(_sweep)


def _infos(bucket: str, prefix: str, entries: Iterable[Mapping[str, Any]]) -> list[ObjectInfo]:
    """The objects right in a folder, of a page of all below it."""
    return [
        ObjectInfo(f"s3://{bucket}/{key}", each["Size"], version_of(each), each["LastModified"])
        for each in entries
        if "/" not in (key := each["Key"]).removeprefix(prefix)
    ]


async def _parts(count: int, send: Callable[[int], Awaitable[str]]) -> list[dict[str, Any]]:
    """Have parts sent, a few at a time; what the completion of their upload must name."""
    gate = asyncio.Semaphore(PARTS_AT_ONCE)

    async def part(number: int) -> dict[str, Any]:
        async with gate:
            return {"PartNumber": number, "ETag": await send(number)}

    tasks = [asyncio.ensure_future(part(at + 1)) for at in range(count)]
    try:
        return await asyncio.gather(*tasks)
    finally:  # no part must arrive after its upload was aborted: nobody would remove it
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Object(io.RawIOBase):
    """An object to read, of the version that it had when it was opened, or listed."""

    def __init__(self, filesystem: S3, path: str, known: ObjectInfo | None) -> None:
        # A server that lists no etags has versions of another kind.
        if known and not known.version.startswith(f"{known.size}-"):
            self.size, etag, first = known.size, f'"{known.version}"', b""
        else:
            self.size, etag, first = filesystem.beginning(path)
        self.ahead = Ahead(partial(filesystem.ask, path, etag), self.size, PART_BYTES, first)
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else self.position + size
        data = self.ahead.read(self.position, stop)
        self.position += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self.ahead.drop()
        super().close()


def _attempt(write: Callable[..., None], *arguments: Any) -> None:
    """Write under a condition.

    Raises:
        FileExistsError: it does not hold.
    """
    try:
        write(*arguments)
    except OSError as error:
        if code(error) not in REFUSED:
            raise
        raise FileExistsError(errno.EEXIST, "a condition does not hold") from error


class S3Storage(Storage):
    """S3 and what speaks like it."""

    conditional = True

    def _read(self, path: str) -> bytes:
        return bytes(self.filesystem.read(path))

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:
        return pa.PythonFile(NamedFile(_Object(self.filesystem, path, known), path), mode="r")

    def _files_in(self, path: str, edges: Sequence[str]) -> Iterable[ObjectInfo]:
        return self.filesystem.files_in(path, edges) if edges else super()._files_in(path, edges)

    def _put(self, path: str, data: bytes) -> None:
        self._write(path, data, {})

    def _create(self, path: str, data: bytes) -> None:
        self._write(path, data, {"IfNoneMatch": "*"})

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        self._write(path, data, {"IfMatch": expected})

    def _copy(self, source: ObjectInfo, target: str) -> None:
        copy = self.filesystem.copy_version
        _attempt(copy, source.path, target, source.size, source.version, {"IfNoneMatch": "*"})

    def _impossible(self, path: str, source: ObjectInfo) -> dict[str, Callable[[], None]]:
        """As above; each as the request that carries its condition, for servers know them one by one."""
        absent, replaced = {"IfNoneMatch": "*"}, {"IfMatch": NO_VERSION}
        whole = partial(_attempt, self.filesystem.publish, path, b"3")
        parts = partial(_attempt, self._in_parts, path, b"3")
        copy = partial(_attempt, self.filesystem.copy_version, source.path, path, source.size)
        return {
            "If-None-Match of PutObject": partial(whole, absent, ""),
            "If-Match of PutObject": partial(whole, replaced, ""),
            "If-None-Match of CompleteMultipartUpload": partial(parts, absent, ""),
            "If-Match of CompleteMultipartUpload": partial(parts, replaced, ""),
            "If-None-Match of CopyObject": partial(copy, source.version, absent),
            "x-amz-copy-source-if-match of CopyObject": partial(copy, NO_VERSION, {}),
        }

    def _in_parts(self, path: str, data: bytes, condition: Mapping[str, str], nonce: str) -> None:
        self.filesystem.publish(path, data, condition, nonce, 0)

    def _alike(self, one: ObjectInfo, other: ObjectInfo) -> bool:
        """What came of the same write is the same: a copy keeps its nonce, and so needs none of its own."""
        if one.size != other.size:
            return False
        nonces = [self.filesystem.nonce(info.path) for info in (one, other)]
        if nonces[0] and nonces[0] == nonces[1]:
            return True
        return one.version == other.version or super()._alike(one, other)

    def _write(self, path: str, data: bytes, condition: Mapping[str, str]) -> None:
        """Write under a condition; a refusal counts only if it is not our own write that stands there.

        Raises:
            FileExistsError: the condition does not hold.
        """
        nonce = uuid.uuid4().hex
        try:
            self.filesystem.publish(path, data, condition, nonce)
        except OSError as error:
            if code(error) not in REFUSED:
                raise
            # The answer to our write may have been lost, and its repetition met what it had written.
            standing = self.filesystem.nonce(path)
            if standing == nonce:
                return
            if condition and (standing is not None or "IfMatch" in condition):
                raise FileExistsError(errno.EEXIST, "the condition does not hold", path) from error
            raise OSError(errno.EAGAIN, f"refused ({code(error)}) without a reason") from error

    def sweep(self, folder: str, ours: Callable[[str], bool]) -> int:
        """Remove what our unfinished uploads left below a folder, which nobody sees and everybody pays."""
        with named_errors(folder):
            return int(self.filesystem.sweep(folder, ours))
