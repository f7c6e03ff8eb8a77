"""A stand-in for an object store of any size: its answers are right, and take a given time.

    python -m benchmarks.bucket PORT --files 100000 --footer FILE

The bucket has many source files, which are the same Parquet file with names and etags of their own. It has
shards that are only names, as many as `PUT /many/shards` lists. It keeps every object that is written in
memory. No real store on this machine could hold a million shards within the time of a benchmark, or be as far
away as a remote one: `PUT /many/delay` sets how many milliseconds each answer waits.
"""

import argparse
import asyncio
import bisect
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

BUCKET = "many"
CHANGED = "2026-11-01T00:00:00.000Z"
HEADERS = {"Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
SHARD_BYTES = 1000


class Entry(NamedTuple):
    """An object's entry in a listing."""

    key: str
    size: int
    etag: str


class Bucket:
    """The objects: generated ones, which are only numbers, and those that were written."""

    def __init__(self, files: int, footer: bytes) -> None:
        self.footer = footer
        self.sources = [f"source/part-{number:08}.parquet" for number in range(files)]
        self.shards: list[str] = []
        self.written: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.numbers = itertools.count(1)
        self.delay = 0.0

    def content(self, key: str) -> bytes | None:
        """Returns an object's content."""
        at = bisect.bisect_left(self.sources, key)
        if at < len(self.sources) and self.sources[at] == key:
            return self.footer
        return self.written.get(key)

    def etag(self, key: str) -> str:
        """Returns an object's version."""
        data = self.written.get(key)
        return f'"{hashlib.md5(key.encode() if data is None else data).hexdigest()}"'

    def after(self, prefix: str, start: str) -> Iterator[Entry]:
        """Returns the entries below a prefix whose keys come after a given key."""
        start = max(start, prefix)
        written = sorted(key for key in self.written if key.startswith(prefix) and key > start)
        entries = [Entry(key, len(self.written[key]), self.etag(key)) for key in written[:1001]]
        for keys, size in ((self.sources, len(self.footer)), (self.shards, SHARD_BYTES)):
            at = bisect.bisect_right(keys, start)
            found = itertools.takewhile(lambda key: key.startswith(prefix), keys[at : at + 1001])
            entries += [Entry(key, size, self.etag(key)) for key in found]
        yield from sorted(entries)


def listing(bucket: Bucket, query: dict[str, str]) -> str:
    """Makes an answer of ListObjectsV2."""
    prefix, most = query.get("prefix", ""), int(query.get("max-keys", 1000))
    start = query.get("continuation-token") or query.get("start-after", "")
    found = bucket.after(prefix, start)
    contents: list[str] = []
    folders: dict[str, None] = {}
    more, last = False, ""
    for entry in found:
        if len(contents) + len(folders) == most:
            more = True
            break
        inner, slash, _ = entry.key.removeprefix(prefix).partition(query.get("delimiter") or "\0")
        if slash:
            folders[prefix + inner + slash] = None
        else:
            contents.append(
                f"<Contents><Key>{escape(entry.key)}</Key><LastModified>{CHANGED}</LastModified>"
                f"<ETag>{escape(entry.etag, {chr(34): '&quot;'})}</ETag><Size>{entry.size}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        last = entry.key
    below = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>'
        f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(contents) + len(folders)}</KeyCount>"
        f"<MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        f"{''.join(contents)}{below}</ListBucketResult>"
    )


class Server:
    """Answers the requests that this project makes, as S3 does."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answers any request."""
        key = unquote(request.raw_path.partition("?")[0]).removeprefix(f"/{BUCKET}").lstrip("/")
        if request.method == "PUT" and key in ("delay", "shards"):
            return self._told(key, await request.text())
        body = await request.read()
        await asyncio.sleep(self.bucket.delay)
        query = dict(request.query)
        if request.method in ("GET", "HEAD"):
            return self._read(request, key, query)
        if request.method == "DELETE":
            self.bucket.written.pop(key, None)
            return web.Response(status=204)
        if "uploads" in query:
            name = f"upload-{next(self.bucket.numbers)}"
            self.bucket.uploads[name] = {}
            inner = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><UploadId>{name}</UploadId>"
            return _xml("InitiateMultipartUploadResult", inner)
        if source := request.headers.get("x-amz-copy-source"):
            copied = self._copied(request, unquote(source).lstrip("/").removeprefix(f"{BUCKET}/"))
            if isinstance(copied, web.Response):
                return copied
            body = copied
        if "partNumber" in query:
            self.bucket.uploads[query["uploadId"]][int(query["partNumber"])] = body
            etag = f'"{hashlib.md5(body).hexdigest()}"'
            if source:
                return _xml("CopyPartResult", f"<ETag>{escape(etag)}</ETag>")
            return web.Response(headers={"ETag": etag})
        if "uploadId" in query:
            parts = self.bucket.uploads.pop(query["uploadId"])
            body = b"".join(parts[number] for number in sorted(parts))
        return self._write(request, key, body)

    def _told(self, key: str, text: str) -> web.Response:
        if key == "delay":
            self.bucket.delay = float(text) / 1000
        else:
            self.bucket.shards = sorted(text.split())
        return web.Response()

    def _read(self, request: web.Request, key: str, query: dict[str, str]) -> web.Response:
        if not key and "uploads" in query:
            return _xml("ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>")
        if not key:
            return web.Response(text=listing(self.bucket, query), content_type="application/xml")
        data = self.bucket.content(key)
        if data is None:
            return _error(404, "NoSuchKey")
        headers = HEADERS | {"ETag": self.bucket.etag(key)}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(len(data))})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not wanted:
            return web.Response(body=data, headers=headers)
        start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return web.Response(status=206, body=data[start:stop], headers=headers)

    def _copied(self, request: web.Request, source: str) -> bytes | web.Response:
        """Returns the content of an object to copy, if it has the wanted version."""
        data, wanted = self.bucket.content(source), request.headers.get("x-amz-copy-source-if-match")
        if data is None:
            return _error(404, "NoSuchKey")
        if wanted and wanted.strip('"') != self.bucket.etag(source).strip('"'):
            return _error(412, "PreconditionFailed")
        return data

    def _write(self, request: web.Request, key: str, body: bytes) -> web.Response:
        there = key in self.bucket.written
        expected = request.headers.get("If-Match")
        if (there and "If-None-Match" in request.headers) or (
            expected and expected.strip('"') != self.bucket.etag(key).strip('"')
        ):
            return _error(412, "PreconditionFailed")
        self.bucket.written[key] = body
        etag = self.bucket.etag(key)
        if "x-amz-copy-source" in request.headers:
            return _xml(
                "CopyObjectResult", f"<ETag>{escape(etag)}</ETag><LastModified>{CHANGED}</LastModified>"
            )
        if request.method == "POST":
            return _xml("CompleteMultipartUploadResult", f"<ETag>{escape(etag)}</ETag>")
        return web.Response(headers={"ETag": etag})


def _xml(name: str, inner: str) -> web.Response:
    return web.Response(
        text=f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>', content_type="application/xml"
    )


def _error(status: int, code: str) -> web.Response:
    inner = f"<Code>{code}</Code><Message>{code}</Message>"
    return web.Response(
        status=status,
        text=f'<?xml version="1.0" encoding="UTF-8"?><Error>{inner}</Error>',
        content_type="application/xml",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--footer", type=Path, required=True)
    told = parser.parse_args(arguments)
    application = web.Application(client_max_size=1 << 34)
    server = Server(Bucket(told.files, told.footer.read_bytes()))
    application.router.add_route("*", "/{path:.*}", server.answer)
    web.run_app(application, host="127.0.0.1", port=told.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
