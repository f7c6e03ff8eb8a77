"""A small S3 server in memory that keeps the conditions of writes, except those that it is set to ignore.

No real product that ignores conditions is available. The server supports only what a probe needs.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

CONDITIONS = {
    "If-None-Match of PutObject": ("put", "If-None-Match"),
    "If-Match of PutObject": ("put", "If-Match"),
    "If-None-Match of CompleteMultipartUpload": ("complete", "If-None-Match"),
    "If-Match of CompleteMultipartUpload": ("complete", "If-Match"),
    "If-None-Match of CopyObject": ("copy", "If-None-Match"),
    "x-amz-copy-source-if-match of CopyObject": ("copy", "x-amz-copy-source-if-match"),
}


class Ignoring(ThreadingHTTPServer):
    """The server. `ignored` and `unknown` are from `CONDITIONS`; it answers an unknown condition with 501."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.ignored: set[tuple[str, str]] = set()
        self.unknown: set[tuple[str, str]] = set()
        self.undeletable = False
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def ignoring() -> Iterator[Ignoring]:
    """Yields a running server."""
    with Ignoring() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Ignoring
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.key = unquote(url.path).lstrip("/")
        self.query = parse_qs(url.query, keep_blank_values=True)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests.append(self.command)
            getattr(self, f"_{self.command.lower()}")()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    def _put(self) -> None:
        if "partNumber" in self.query:
            self.server.parts[self.query["uploadId"][0]] = self.body
            self._answer(200, etag=_etag(self.body))
        elif source := self.headers.get("x-amz-copy-source"):
            data = self.server.objects[unquote(source).lstrip("/")]
            if self._holds("copy", "x-amz-copy-source-if-match", data) and self._may_write("copy"):
                self.server.objects[self.key] = data
                self._answer(200, f"<CopyObjectResult><ETag>{_etag(data)}</ETag></CopyObjectResult>")
        elif self._may_write("put"):
            self.server.objects[self.key] = self.body
            self._answer(200, etag=_etag(self.body))

    def _post(self) -> None:
        if "uploads" in self.query:
            upload = f"u{len(self.server.requests)}"
            return self._answer(200, f"<R><UploadId>{upload}</UploadId></R>")
        if self._may_write("complete"):
            self.server.objects[self.key] = self.server.parts.pop(self.query["uploadId"][0])
            self._answer(200, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
        return None

    def _delete(self) -> None:
        if "uploadId" in self.query:
            self.server.parts.pop(self.query["uploadId"][0], None)
        elif self.server.undeletable:
            return self._error(403, "AccessDenied")
        else:
            self.server.objects.pop(self.key, None)
        return self._answer(204)

    def _head(self) -> None:
        data = self.server.objects.get(self.key)
        if data is None:
            return self._answer(404)
        return self._answer(200, data.decode(), _etag(data))

    def _get(self) -> None:
        self._answer(200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")

    def _may_write(self, operation: str) -> bool:
        there = self.server.objects.get(self.key)
        return self._holds(operation, "If-None-Match", there) and self._holds(operation, "If-Match", there)

    def _holds(self, operation: str, header: str, there: bytes | None) -> bool:
        """Tells whether the conditions hold or are ignored; otherwise it answers the request."""
        wanted, condition = self.headers.get(header), (operation, header)
        if wanted is None or condition in self.server.ignored:
            return True
        if condition in self.server.unknown:
            self._error(501, "NotImplemented")
            return False
        matches = there is not None and (wanted == "*" or wanted.strip('"') == _etag(there).strip('"'))
        if matches == (header == "If-None-Match"):
            self._error(412, "PreconditionFailed")
            return False
        return True

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>No.</Message></Error>")

    def _answer(self, status: int, body: str = "", etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Last-Modified", formatdate(usegmt=True))
        if etag:
            self.send_header("ETag", etag)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
