"""`ray job submit` on a cluster of its own: real processes, ended by their own process group."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import read_dataset, write_config

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
Job = Callable[..., dict[str, Any]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def dashboard() -> Iterator[str]:
    """A head node with two CPUs; the address where jobs are submitted."""
    ports = {name: free_port() for name in ("port", "dashboard-port", "ray-client-server-port")}
    options = [f"--{name}={port}" for name, port in ports.items()]
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--num-cpus=2", "--dashboard-host=127.0.0.1",
         "--object-store-memory=500000000", "--disable-usage-stats", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environment(),
    )  # fmt: skip
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        wait_for_jobs(address)
        yield address
    finally:
        for child in [*psutil.Process(head.pid).children(recursive=True), head]:
            child.kill()
        head.wait()


def wait_for_jobs(address: str) -> None:
    """Until the cluster takes jobs."""
    for _ in range(60):
        if submit(address, "--no-wait", "--", "true").returncode == 0:
            return
        time.sleep(1)
    raise TimeoutError(f"no Ray at {address}")


def environment() -> dict[str, str]:
    """Ours, with this Python's folder first: the cluster's `python` is the one that has the package."""
    path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"PATH": path}


def submit(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", f"--address={address}", *arguments],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment(),
    )  # fmt: skip


def test_a_submitted_job_is_done_and_a_wrong_one_says_why(dashboard: str, job: Job, tmp_path: Path) -> None:
    config = str(write_config(tmp_path / "job.yaml", job()))
    command = ["--working-dir", ".", "--", "python", "-m", "jobs.embed", config]
    ended = submit(dashboard, *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert read_dataset(tmp_path / "out").column("key").to_pylist() == list(range(60))

    ended = submit(dashboard, *command, "--set", "model.max_tokens=64")
    assert ended.returncode == 1  # all that Ray tells
    assert "model.max_tokens: 512 there, 64 here" in ended.stdout
    assert "exit 5: " in ended.stdout
