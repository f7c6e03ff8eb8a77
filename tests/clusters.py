"""Ray clusters of real processes on this machine: a head and workers, each a raylet with ports of its own."""

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
    """A head without CPUs of its own unless it is alone, and its workers.

    Args:
        environment: of all nodes; added to this process's.
    """

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        ours = without_ray()
        # The cluster's `python` is the one that has the package.
        path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = ours | {"PATH": path, "PYTHONPATH": str(ROOT)} | dict(environment)
        self.log = log
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.gcs = self.url = ""
        self.metrics = 0  # the head's port of them
        self._given: list[int] = []

    def start_head(self, cpus: float) -> None:
        """Start the head, and wait until it takes jobs."""
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
        """Start a worker, and wait until it has joined.

        Args:
            under: a command that starts it.
        """
        worker = self._start(cpus, f"--address={self.gcs}", under=under)
        for _ in range(450):
            if self._alive() == len(self.nodes):
                return worker
            time.sleep(0.2)
        raise TimeoutError(f"no new node at {self.url}:\n{self.log.read_text()[-3000:]}")

    def _alive(self) -> int:
        """How many nodes the cluster has, by its own word."""
        alive = urllib.parse.urlencode(
            {"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE"}
        )
        with suppress(OSError):
            return len(self._ask(f"/api/v0/nodes?{alive}")["data"]["result"]["result"])
        return 0

    def run(self, name: str, command: str, runtime: str = "{}") -> str:
        """What a job says that is submitted as `ray job submit` does it, and has ended.

        Args:
            runtime: its environment, as JSON.
        """
        told = {"submission_id": name, "entrypoint": command, "runtime_env": json.loads(runtime)}
        self._ask("/api/jobs/", told)
        while self._ask(f"/api/jobs/{name}")["status"] in ("PENDING", "RUNNING"):
            time.sleep(0.2)
        return str(self._ask(f"/api/jobs/{name}/logs")["logs"])

    def _ask(self, path: str, told: Mapping[str, Any] | None = None) -> Any:
        """What the head's API answers: the command line's client takes seconds to start."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        data = None if told is None else json.dumps(told).encode()
        request = urllib.request.Request(
            self.url + path, data, headers | {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, from the root of the project."""
        return self.ray("job", "submit", f"--address={self.url}", *arguments)

    def said(self, job: str) -> str:
        """All that a submitted job said: what `submit` shows may lack its last lines."""
        return self.ray("job", "logs", f"--address={self.url}", job).stdout

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's."""
        return subprocess.run(
            [RAY, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=self.environment
        )

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL a node's raylet and all that runs on it, as if the machine were gone."""
        for child in [*_children(node), psutil.Process(node.pid)]:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        node.wait()
        self.nodes.remove(node)

    def workers(self, title: str) -> list[psutil.Process]:
        """Processes of the cluster by a part of the title that Ray gives them (`ray::...`)."""
        found = []
        for node in self.nodes:
            for child in _children(node):
                with suppress(psutil.NoSuchProcess):
                    if title in " ".join(child.cmdline()):
                        found.append(child)
        return found

    def stop(self) -> None:
        """End all processes of it, and none of another's."""
        for node in list(reversed(self.nodes)):
            self.kill(node)

    def _ports(self, count: int) -> list[int]:
        """Ports that were not given to another: who got one takes a while to listen there."""
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
    """This process's environment, without what it has for a Ray of its own: no cluster starts with that."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def token() -> dict[str, str]:
    """A cluster listens on all addresses of a machine: without a token anybody could run what he likes."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def cluster(
    log: Path,
    head_cpus: float = 2,
    workers: tuple[float, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """A running cluster; it ends with the context."""
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
