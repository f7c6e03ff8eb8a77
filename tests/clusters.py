"""Starts Ray clusters of real processes on this machine: a head and workers, each with its own raylet."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.s3.server import free_ports

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
STORE_BYTES = 200_000_000


class Cluster:
    """A head, which has CPUs only if it is alone, and its workers.

    Args:
        environment: variables of all nodes, added to this process's.
    """

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        ours = without_ray()
        # The cluster's `python` is the one that has the package.
        path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = ours | {"PATH": path, "PYTHONPATH": str(ROOT)} | dict(environment)
        self.log = log
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.gcs = self.url = ""
        self.metrics = 0  # the head's port of metrics
        self._given: list[int] = []

    def start_head(self, cpus: float) -> None:
        """Starts the head, and waits until it accepts jobs."""
        gcs, dashboard, client = self._ports(3)
        self.gcs, self.url = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        self._start(cpus, "--head", f"--port={gcs}", "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}")  # fmt: skip
        for _ in range(450):
            with suppress(OSError):
                self._ask("/api/jobs/", {"entrypoint": "true"})
                return
            time.sleep(0.2)
        raise TimeoutError(f"no Ray at {self.url}:\n{self.log.read_text()[-3000:]}")

    def add_worker(self, cpus: float, under: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Starts a worker, and waits until it has joined.

        Args:
            under: a command under which the worker is started.
        """
        worker = self._start(cpus, f"--address={self.gcs}", under=under)
        for _ in range(450):
            if self._alive() == len(self.nodes):
                return worker
            time.sleep(0.2)
        raise TimeoutError(f"no new node at {self.url}:\n{self.log.read_text()[-3000:]}")

    def _alive(self) -> int:
        """Returns how many nodes the cluster reports."""
        alive = urllib.parse.urlencode(
            {"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE"}
        )
        with suppress(OSError):
            return len(self._ask(f"/api/v0/nodes?{alive}")["data"]["result"]["result"])
        return 0

    def run(self, name: str, command: str, runtime: str = "{}") -> str:
        """Submits a job as `ray job submit` does; waits for its end, and returns its log.

        Args:
            runtime: its runtime environment, as JSON.
        """
        told = {"submission_id": name, "entrypoint": command, "runtime_env": json.loads(runtime)}
        self._ask("/api/jobs/", told)
        while self._ask(f"/api/jobs/{name}")["status"] in ("PENDING", "RUNNING"):
            time.sleep(0.2)
        return str(self._ask(f"/api/jobs/{name}/logs")["logs"])

    def told(self, job: str) -> Any:
        """Returns what the API tells of a job."""
        return self._ask(f"/api/jobs/{job}")

    def _ask(self, path: str, told: Mapping[str, Any] | None = None) -> Any:
        """Asks the head's API, since Ray's command-line client takes seconds to start."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        data = None if told is None else json.dumps(told).encode()
        request = urllib.request.Request(
            self.url + path, data, headers | {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `ray job submit` from the root of the project."""
        return self.ray("job", "submit", f"--address={self.url}", *arguments)

    def said(self, job: str) -> str:
        """Returns the complete log of a job; the output of `submit` may lack its last lines."""
        return self.ray("job", "logs", f"--address={self.url}", job).stdout

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of Ray's."""
        return subprocess.run(
            [RAY, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=self.environment
        )

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Sends SIGKILL to a node's raylet and all its processes, as if the machine were gone."""
        for child in [*_children(node), psutil.Process(node.pid)]:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        node.wait()
        self.nodes.remove(node)

    def workers(self, title: str) -> list[psutil.Process]:
        """Finds processes of the cluster by a part of the title that Ray gives them (`ray::...`)."""
        found = []
        for node in self.nodes:
            for child in _children(node):
                with suppress(psutil.NoSuchProcess):
                    if title in " ".join(child.cmdline()):
                        found.append(child)
        return found

    def stop(self) -> None:
        """Ends all processes of this cluster, and none of another's."""
        for node in list(reversed(self.nodes)):
            self.kill(node)

    def _ports(self, count: int) -> list[int]:
        """Returns ports that no other node was given: a node takes a while until it listens on its port."""
        found = [port for port in free_ports(count + len(self._given)) if port not in self._given][:count]
        self._given += found
        return found

    def _start(self, cpus: float, *arguments: str, under: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port",
                 "node-manager-port", "object-manager-port", "runtime-env-agent-port")  # fmt: skip
        given = dict(zip(ports, self._ports(len(ports)), strict=True))
        self.metrics = self.metrics or given["metrics-export-port"]
        options = [f"--{name}={port}" for name, port in given.items()]
        options += [f"--num-cpus={cpus:g}", f"--object-store-memory={STORE_BYTES}", "--memory=2000000000"]
        with self.log.open("ab") as log:
            node = subprocess.Popen(
                [*under, RAY, "start", "--block", "--disable-usage-stats", *arguments, *options],
                stdout=log, stderr=log, env=self.environment,
            )  # fmt: skip
        self.nodes.append(node)
        return node


def without_ray() -> dict[str, str]:
    """Returns this process's environment without its own Ray's settings, which prevent a cluster's start."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def token() -> dict[str, str]:
    """Makes a token; without one anybody could run code, since a cluster listens on all addresses."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def cluster(
    log: Path,
    head_cpus: float = 2,
    workers: tuple[float, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Starts a cluster; it ends with the context."""
    running = Cluster(log, token() | dict(environment or {}))
    try:
        running.start_head(head_cpus)
        for cpus in workers:
            running.add_worker(cpus)
        yield running
    finally:
        running.stop()


def _children(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(node.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
