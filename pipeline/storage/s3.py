"""S3 through s3fs: with retries in one place, reads of one version, and writes that know themselves again.

Neither botocore nor s3fs retries here (`BOTOCORE` and `S3.retries` see to that): between them they try a
request up to 25 times, and count none of it. Every request goes through `S3._call_s3`, every body through
`S3._get`. Only aiohttp still sends a request again, once, that met a connection closed by the server.
"""

import asyncio
from functools import partial
from typing import Any

import pyarrow as pa
import s3fs
from botocore.exceptions import IncompleteReadError
from fsspec.asyn import sync_wrapper

from pipeline.storage.failures import code
from pipeline.storage.objects import NamedFile, Storage
from pipeline.storage.retries import retried

PART_BYTES = 16 << 20
"""What one request reads or writes of a large object: a cut connection costs no more."""
PARTS_AT_ONCE = 8
BOTOCORE = {"retries": {"mode": "standard", "total_max_attempts": 1}, "max_pool_connections": 32}


class S3(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """The driver."""

    retries = 1
    answered = False

    async def _call_s3(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        return await self._retried(partial(super()._call_s3, method, *arguments, **keywords))

    call_s3 = sync_wrapper(_call_s3)

    async def _retried(self, attempt: Any) -> Any:
        answer = await retried(attempt, self.answered)
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
        try:
            first, answer = await self._get(path, 0, PART_BYTES)
        except OSError as error:
            if code(error) == "InvalidRange":  # an empty object has no first byte
                return b""
            raise
        size = int(answer.get("ContentRange", f"/{len(first)}").rsplit("/", 1)[1])
        gate = asyncio.Semaphore(PARTS_AT_ONCE)

        async def part(start: int) -> bytes:
            async with gate:
                return (await self._get(path, start, min(start + PART_BYTES, size), answer["ETag"]))[0]

        rest = await asyncio.gather(*(part(start) for start in range(len(first), size, PART_BYTES)))
        return b"".join([first, *rest])

    read = sync_wrapper(_read)
    get_range = sync_wrapper(_get)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return _File(self, path, mode, cache_type="none")


class _File(s3fs.S3File):  # type: ignore[misc]  # s3fs has no types
    """An object to read, of the version that it had when it was opened."""

    def _fetch_range(self, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        return bytes(self.fs.get_range(self.path, start, stop, self.details["ETag"])[0])


class S3Storage(Storage):
    """S3 and what speaks like it."""

    def _read(self, path: str) -> bytes:
        return bytes(self.filesystem.read(path))

    def _open(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(NamedFile(self.filesystem.open(path, "rb"), path), mode="r")
