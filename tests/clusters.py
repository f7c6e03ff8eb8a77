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
from typing import Any, NamedTuple

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from tests.s3.server import free_ports

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
STORE_BYTES = 200_000_000
IDLE_SECONDS = 15
"""Seconds after which an autoscaler removes an idle node."""


class Group(NamedTuple):
    """Nodes that an autoscaler may add: the most of them, and what each has."""

    most: int
    cpus: float
    gpus: float = 0


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

    def start_head(self, cpus: float, groups: Mapping[str, Group] | None = None) -> None:
        """Starts the head, and waits until it accepts jobs.

        Args:
            groups: the nodes that Ray's autoscaler may add. They are processes of this machine, too, and
                their GPUs are only numbers.
        """
        gcs, dashboard, client = self._ports(3)
        self.gcs, self.url = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        options = [f"--autoscaling-config={self._autoscaling(groups)}"] if groups else []
        self._start(cpus, "--head", f"--port={gcs}", "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
                    *options)  # fmt: skip
        for _ in range(450):
            with suppress(OSError):
                self._ask("/api/jobs/", {"entrypoint": "true"})
                return
            time.sleep(0.2)
        raise TimeoutError(f"no Ray at {self.url}:\n{self.log.read_text()[-3000:]}")

    def _autoscaling(self, groups: Mapping[str, Group]) -> Path:
        """Writes the config of an autoscaler whose nodes are processes; returns its path."""
        self.environment |= {
            "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }  # fmt: skip
        types = {
            name: {
                "resources": {"CPU": group.cpus, "GPU": group.gpus, "object_store_memory": STORE_BYTES},
                "node_config": {}, "min_workers": 0, "max_workers": group.most,
            }
            for name, group in groups.items()
        }  # fmt: skip
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        config: dict[str, Any] = {
            **{f"{name}_commands": [] for name in (
                "setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"
            )},
            "cluster_synced_files": [], "file_mounts": {},
            "cluster_name": "processes",
            "max_workers": sum(group.most for group in groups.values()),
            "idle_timeout_minutes": IDLE_SECONDS / 60,
            "provider": {
                # By this name, because Ray's wheel lacks the defaults of its own provider "fake_multinode".
                "type": "external",
                "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
                "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True, "gcs_address": self.gcs,
            },
            "available_node_types": types | {FAKE_HEAD_NODE_TYPE: head},
            "head_node_type": FAKE_HEAD_NODE_TYPE,
        }  # fmt: skip
        path = self.log.with_suffix(".autoscaling.json")
        path.write_text(json.dumps(config))
        return path

    def added(self) -> list[psutil.Process]:
        """Finds the nodes that the autoscaler added."""
        found = []
        for child in _children(self.nodes[0]):
            with suppress(psutil.NoSuchProcess):
                if child.name() == "raylet" and child.environ().get("RAY_NODE_TYPE_NAME"):
                    found.append(child)
        return found

    def lose(self, raylet: psutil.Process) -> None:
        """Sends SIGKILL to a node that the autoscaler added, with all its processes."""
        for child in [raylet, *raylet.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                child.kill()

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
    groups: Mapping[str, Group] | None = None,
) -> Iterator[Cluster]:
    """Starts a cluster; it ends with the context."""
    running = Cluster(log, token() | dict(environment or {}))
    try:
        running.start_head(head_cpus, groups)
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
