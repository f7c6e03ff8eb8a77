"""S3 through s3fs: retries in one place, reads of one version, and writes that recognize themselves.

Neither botocore nor s3fs retries here (`BOTOCORE` and `S3.retries` turn that off): together they would try a
request up to 25 times and count none of the retries. Every request goes through `S3._call_s3`, every body
through `S3._get`. Only aiohttp still repeats a request, once, if the server had closed the connection.
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
from pipeline.storage.error_mapping import code, is_unreachable, map_errors
from pipeline.storage.object_file import ObjectFile
from pipeline.storage.retry import retried
from pipeline.storage.s3_listing import parse_early

PART_BYTES = 16 << 20
"""Bytes of a large object that one request reads or writes. A cut connection costs no more than this."""
PARTS_AT_ONCE = 8
FIRST_BYTES = 128 << 10
"""Bytes that opening an object reads. It costs no more than asking for the size, and covers small objects."""
MULTIPART_BYTES = 64 << 20
"""The largest object that one request writes."""
COPY_BYTES, COPY_PART_BYTES = 1 << 30, 256 << 20
"""The largest object that one request copies. S3 accepts five times as much, but sends nothing while it
copies, and a client that receives nothing for half a minute repeats the request."""
PAGE_KEYS = 1000
NONCE = "write"
"""The name of the metadata by which a write recognizes its own object."""
REFUSED = ("PreconditionFailed", "NoSuchUpload", "NoSuchKey")
"""Codes of a refused condition. The repetition of a write that was carried out gets them, too."""
BOTOCORE = {
    "retries": {"mode": "standard", "total_max_attempts": 1},
    "connect_timeout": 5,
    "read_timeout": 30,
    "max_pool_connections": 32,
}


class S3(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs with our retries, reads and writes."""

    retries = 1
    answered = False
    told: Any = None
    """The client that already parses pages with our parser."""

    async def set_session(self, *arguments: Any, **keywords: Any) -> Any:
        """Makes the client as s3fs does, if there is none yet, and parses its listings with our parser."""
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
        """Returns the bytes [start, stop) of an object, of the version `etag` if given, and the answer."""
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
        """Returns the whole object, of one version, in parts that are read at the same time."""
        size, etag, first = await self._beginning(path, PART_BYTES)
        return await self._range(path, 0, size, etag, first)

    async def _beginning(self, path: str, count: int | None = None) -> tuple[int, str, bytes]:
        """Returns size, etag and first bytes of an object with one request."""
        try:
            first, answer = await self._get(path, 0, count or FIRST_BYTES)
        except OSError as error:
            if code(error) == "InvalidRange":  # an empty object has no first byte
                return 0, "", b""
            raise
        size = int(answer.get("ContentRange", f"/{len(first)}").rsplit("/", 1)[1])
        return size, str(answer["ETag"]), first

    async def _range(self, path: str, start: int, stop: int, etag: str, first: bytes = b"") -> bytes:
        """Returns the bytes [start, stop) of one version, in parts that are read at the same time.

        Args:
            first: the first of these bytes, which were read before.
        """
        if stop - start == len(first):
            return first
        if stop - start <= PART_BYTES:
            return (await self._get(path, start, stop, etag))[0]
        # The buffer is filled in place and returned without a copy: joining parts would need twice the
        # memory.
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
        """Returns the objects directly in a folder: first its first page, then ranges of keys in parallel."""
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
        """Returns the objects directly in a folder whose keys are in (start, stop], page by page."""
        found: list[ObjectInfo] = []
        more: str | None = ""
        while more is not None:
            page, more = await self._page(bucket, prefix, start, more)
            # The entries are converted at once: a million dictionaries take two gigabytes.
            found += _infos(bucket, prefix, (each for each in page if stop is None or each["Key"] <= stop))
            if stop is not None and page and page[-1]["Key"] >= stop:
                break
        return found

    async def _page(
        self, bucket: str, prefix: str, after: str, token: str = ""
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Returns up to a thousand entries whose keys come after one, and the token of the next page.

        Args:
            token: from the answer before, with the same `after`; it says where to continue.
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
        """Requests the bytes [start, stop) of one version."""
        return asyncio.run_coroutine_threadsafe(self._range(path, start, stop, etag), self.loop)

    read, beginning = sync_wrapper(_read), sync_wrapper(_beginning)

    async def _publish(
        self, path: str, data: bytes, condition: Mapping[str, str], nonce: str, at_once: int = MULTIPART_BYTES
    ) -> None:
        """Writes an object if the condition holds, whole or not at all.

        Args:
            at_once: the most bytes that are written with one request.
        """
        bucket, key, _ = self.split_path(path)
        place, metadata = {"Bucket": bucket, "Key": key}, {"Metadata": {NONCE: nonce}}
        if len(data) <= at_once:
            await self._call_s3("put_object", **place, Body=data, **metadata, **condition)
            return
        await self._in_parts(place, metadata, condition, partial(self._upload, data))

    async def _copy(self, path: str, target: str, size: int, etag: str, condition: Mapping[str, str]) -> None:
        """Copies one version of an object, and its nonce, if the condition holds for the target."""
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
        """Makes an object of the parts that `send` sends. If the condition does not hold, nothing is left."""
        upload = await self._call_s3("create_multipart_upload", **place, **metadata)
        place = {**place, "UploadId": upload["UploadId"]}
        try:
            parts = {"Parts": await send(place)}
            await self._call_s3("complete_multipart_upload", **place, MultipartUpload=parts, **condition)
        except BaseException:
            with suppress(
                Exception
            ):  # the first failure is the one to report; `abort_unfinished_uploads` finds what is left
                await self._call_s3("abort_multipart_upload", **place)
            raise

    async def _upload(self, data: bytes, place: Mapping[str, str]) -> list[dict[str, Any]]:
        """Sends the parts of an object, and returns what its completion must name."""
        view = memoryview(data)

        async def part(number: int) -> str:
            body = bytes(view[(number - 1) * PART_BYTES : number * PART_BYTES])
            answer = await self._call_s3("upload_part", **place, PartNumber=number, Body=body)
            return str(answer["ETag"])

        return await _parts(ceil(len(data) / PART_BYTES), part)

    async def _upload_copies(
        self, source: Mapping[str, Any], size: int, place: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Lets the server copy the parts of an object, and returns what its completion must name."""

        async def part(number: int) -> str:
            start, stop = (number - 1) * COPY_PART_BYTES, min(number * COPY_PART_BYTES, size)
            wanted = {"PartNumber": number, "CopySourceRange": f"bytes={start}-{stop - 1}"}
            answer = await self._call_s3("upload_part_copy", **place, **source, **wanted)
            return str(answer["CopyPartResult"]["ETag"])

        return await _parts(ceil(size / COPY_PART_BYTES), part)

    async def _nonce(self, path: str) -> str | None:
        """Returns the nonce of the write that made the object.

        It is empty if this program did not write the object, and None if the object does not exist.
        """
        bucket, key, _ = self.split_path(path)
        try:
            head = await self._call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return str(head["Metadata"].get(NONCE, ""))

    async def _sweep(self, path: str, ours: Callable[[str], bool]) -> int:
        """Aborts the unfinished uploads of our objects below a path, and returns their number."""
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
    """Returns the objects directly in a folder from a page of all objects below it."""
    return [
        ObjectInfo(f"s3://{bucket}/{key}", each["Size"], version_of(each), each["LastModified"])
        for each in entries
        if "/" not in (key := each["Key"]).removeprefix(prefix)
    ]


async def _parts(count: int, send: Callable[[int], Awaitable[str]]) -> list[dict[str, Any]]:
    """Sends parts, a few at a time, and returns what the completion of their upload must name."""
    gate = asyncio.Semaphore(PARTS_AT_ONCE)

    async def part(number: int) -> dict[str, Any]:
        async with gate:
            return {"PartNumber": number, "ETag": await send(number)}

    tasks = [asyncio.ensure_future(part(at + 1)) for at in range(count)]
    try:
        return await asyncio.gather(*tasks)
    finally:  # a part that arrives after its upload was aborted would never be removed
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _opened(filesystem: S3, path: str, known: ObjectInfo | None) -> ObjectFile:
    """Opens an object in the version that it has now, or had when it was listed."""
    # If a server lists no etags, versions have another form.
    if known and not known.version.startswith(f"{known.size}-"):
        size, etag, first = known.size, f'"{known.version}"', b""
    else:
        size, etag, first = filesystem.beginning(path)
    return ObjectFile(partial(filesystem.ask, path, etag), size, PART_BYTES, first)


def _attempt(write: Callable[..., None], *arguments: Any) -> None:
    """Writes under a condition.

    Raises:
        FileExistsError: the condition does not hold.
    """
    try:
        write(*arguments)
    except OSError as error:
        if code(error) not in REFUSED:
            raise
        raise FileExistsError(errno.EEXIST, "a condition does not hold") from error


class S3Storage(Storage):
    """S3, and storage with an S3-compatible interface."""

    conditional = True

    def _read(self, path: str) -> bytes:
        return bytes(self.filesystem.read(path))

    def _open(self, path: str, known: ObjectInfo | None) -> pa.NativeFile:
        return pa.PythonFile(NamedFile(_opened(self.filesystem, path, known), path), mode="r")

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
        """Returns one write per request and condition, because servers support them one by one."""
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
        """Tells whether two objects have the same content.

        Objects of the same write do: a copy keeps the nonce of its original.
        """
        if one.size != other.size:
            return False
        nonces = [self.filesystem.nonce(info.path) for info in (one, other)]
        if nonces[0] and nonces[0] == nonces[1]:
            return True
        return one.version == other.version or super()._alike(one, other)

    def _write(self, path: str, data: bytes, condition: Mapping[str, str]) -> None:
        """Writes under a condition. A refusal counts only if the object is not the result of this very write.

        Raises:
            FileExistsError: the condition does not hold.
        """
        nonce = uuid.uuid4().hex
        try:
            self.filesystem.publish(path, data, condition, nonce)
        except OSError as error:
            if code(error) not in REFUSED:
                raise
            # The answer to our write may have been lost; then its repetition met the object that it had
            # written.
            standing = self.filesystem.nonce(path)
            if standing == nonce:
                return
            if condition and (standing is not None or "IfMatch" in condition):
                raise FileExistsError(errno.EEXIST, "the condition does not hold", path) from error
            raise OSError(errno.EAGAIN, f"refused ({code(error)}) without a reason") from error

    def abort_unfinished_uploads(self, folder: str, ours: Callable[[str], bool]) -> int:
        """Removes what our unfinished uploads left below a folder: it is invisible, and it costs money."""
        with map_errors(folder):
            return int(self.filesystem.sweep(folder, ours))
