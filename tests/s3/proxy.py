"""A proxy in front of an S3 server that misbehaves like a network, with seeded probability."""

import http.client
import random
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

FAULTS = ("slow_down", "error", "cut", "stall", "lose")
"""503; 500; a body cut in the middle; a pause; a lost answer to a request that was carried out."""
ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>Please try again.</Message></Error>'
CODES = {
    "slow_down": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "forbidden": (403, "AccessDenied"),
    "unknown": (401, "InvalidToken"),
}
Proxy = TypeVar("Proxy", bound="FaultProxy")
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect")


class FaultProxy(ThreadingHTTPServer):
    """The server. `done` counts what it did, `asked` the requests for each path, by method and path, and
    `bytes` the bytes of bodies that it passed on, both ways.

    Two attributes may be changed at any time: `faults`, the probability of each fault, and `next`, the
    treatment of the next requests.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, seed: int, stall_seconds: float = 0.5) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.stall_seconds = stall_seconds
        self.faults: dict[str, float] = {}
        self.next: list[str] = []
        self.done: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.bytes = 0
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        """Returns the URL that the proxy listens at."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str:
        """Draws the treatment of the next request: a fault, or `pass`."""
        with self._lock:
            names, weights = list(self.faults), list(self.faults.values())
            [drawn] = self._random.choices([*names, "pass"], [*weights, 1 - sum(weights)])
            drawn = self.next.pop(0) if self.next else drawn
            self.done[drawn] += 1
            return drawn

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores errors: clients that give up are expected here."""


@contextmanager
def fault_proxy(upstream: str, seed: int, stall_seconds: float = 0.5) -> Iterator[FaultProxy]:
    """Yields a running proxy; it has no faults until a test sets `faults`."""
    with serving(FaultProxy(upstream, seed, stall_seconds)) as proxy:
        yield proxy


@contextmanager
def serving(proxy: Proxy) -> Iterator[Proxy]:
    """Yields a proxy that runs as long as the context."""
    with proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        fault = self.server.draw()
        self.server.asked[f"{self.command} {self.path.partition('?')[0]}"] += 1
        length = int(self.headers.get("Content-Length", 0))
        if fault == "cut" and length > 1:
            self.rfile.read(length // 2)  # the request is not carried out
            return self._hang_up()
        body = self.rfile.read(length)
        if fault == "stall":
            time.sleep(self.server.stall_seconds)
        if fault in CODES:
            status, code = CODES[fault]
            return self._answer(status, {}, ERROR.format(code=code).encode())
        status, headers, data = self._forward(body)
        self.server.bytes += len(body) + len(data)
        if fault == "lose":
            return self._hang_up()
        return self._answer(status, headers, data, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            headers = {
                name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP
            }
            return answer.status, headers, answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers) and status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if cut:
            self._hang_up()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)

    def _hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Logs nothing."""
