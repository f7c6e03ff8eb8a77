"""Starts or joins Ray: the cluster of RAY_ADDRESS, or a private one; lists nodes, also possible ones."""

import atexit
import logging
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.node import Node as RayNode
from ray._raylet import AuthenticationTokenLoader, Config

from pipeline.embed.on_ray import processes, ray_log
from pipeline.embed.resources import Node
from pipeline.errors import ConfigError, ExitCode, PipelineError, StoppedError, one_line

KEEP_WORKERS = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
"""Keeps idle workers. Ray ends a worker that was idle for a second, so each split's write would start a new
one. That takes a second of a processor: on two cores, with splits of three seconds, a replica lost 27 % of
its speed. Raylets read this setting; those of an existing cluster have their own (k8s/Dockerfile)."""
UNWATCHED = {"RAY_task_events_report_interval_ms": "0", "RAY_event_stats": "0"}
"""Turns off the reports that each process of Ray sends every second for a dashboard and its state API. A
private Ray has neither, and the reports take nearly one percent of two cores (docs/decisions.md)."""
UNFORGIVING = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}
"""Ends Ray's processes 15 s after their control store, not 60 s: nobody restarts that of a private Ray."""
LOOPBACK = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
"""Makes Ray's processes listen on 127.0.0.1 only. Ray listens on all addresses of a machine unless clusters
are disabled, as on macOS. `_node_ip_address` can't ask for that: Ray rewrites it."""
UNNEEDED = ("start_monitor", "start_log_monitor", "start_api_server")
"""The starts of processes that a private Ray has no use for: the autoscaler, the forwarding of workers' logs,
and the server of the dashboard. They take 3 CPU seconds to start."""
QUIET: Mapping[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
TRIES = "RAY_gcs_server_port_wait_time_s"
"""How often Ray tries to reach a cluster: by default 20 times, and each time it waits for up to a minute."""
UNLIMITED_NODES = 1000
"""The nodes that are assumed of a group without a limit."""
NODE_GROUPS = "EMBED_NODE_GROUPS"
"""The variable in which a cluster's manifests tell the driver which nodes its autoscaler may add."""
GROUP = re.compile(
    r"(?P<name>[\w.-]+):(?P<most>\d+)x(?P<cpus>\d+(?:\.\d+)?)(?:\+(?P<gpus>\d+(?:\.\d+)?))?", re.ASCII
)


@contextmanager
def cluster() -> Iterator[None]:
    """Joins the cluster of RAY_ADDRESS, or starts a private Ray on this machine; ends it at the end."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    # At least two: the stages need to run at the same time, and on one core they take turns well enough.
    cpus = max(2, os.cpu_count() or 2)
    with ray_log.aside(), _started(partial(_join, address)) if address else private(num_cpus=cpus):
        yield


@contextmanager
def private(**options: Any) -> Iterator[None]:
    """Starts a Ray for this process alone, and ends it at the end.

    Nobody else can join it, from this machine or another: its token is secret, and it listens on the loopback
    interface.

    Args:
        options: further options of `ray.init`.

    Raises:
        StoppedError: Ray does not start here.
    """
    with _secluded(), _started(partial(_start, **options)):
        yield


@contextmanager
def _secluded() -> Iterator[None]:
    """Gives a Ray that starts within the context its own token, and the other settings of a private Ray."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # The user may override the settings that are only about time.
    time = {
        name: os.environ.get(name, value) for name, value in (KEEP_WORKERS | UNWATCHED | UNFORGIVING).items()
    }
    settings = time | token | LOOPBACK
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # it was read when Ray was imported
    _read_environment()
    try:
        yield
    finally:
        for name, value in before.items():
            _set(name, value)
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        if not ray.is_initialized():
            _read_environment()


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _read_environment() -> None:
    """Makes Ray's core in this process read its settings and token again; it caches what it has read."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _started(start: Callable[[], object]) -> Iterator[None]:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        start()
        processes.watch()
        if threading.current_thread() is threading.main_thread():
            # Ray installs its own handler, which exits with 15 and a message that says nothing.
            signal.signal(signal.SIGTERM, on_sigterm)
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        # Without Ray's shutdown: a task that Ray retries meanwhile would end the process at once, with exit
        # code 1 and before the reason is printed. A driver's tasks end with it in any case.
        code = stop.code if isinstance(stop, SystemExit) else ExitCode.RETRYABLE
        atexit.register(_leave, int(code or 0))
        raise
    except BaseException as error:
        if not processes.dead():
            _shut_down()  # half-started, too: at the end of the process, Ray's own output would come last
            raise
        atexit.register(_leave, int(ExitCode.RETRYABLE))  # Ray's shutdown would wait for the dead
        if isinstance(error, PipelineError):
            raise
        raise stopped(error) from error
    _shut_down()


def _shut_down() -> None:
    processes.forget()
    ray.shutdown()


def _start(**options: Any) -> None:
    """Starts a Ray on this machine.

    Raises:
        StoppedError: Ray does not start: the machine is too busy, or Ray has no folder for its files.
    """
    try:
        with processes.starting(), _few_processes():
            ray.init(address="local", include_dashboard=False, **QUIET, **options)
    except Exception as error:  # Ray raises a bare Exception if its processes are not up within 30 s
        if processes.dead():
            raise stopped(error) from error
        hint = "run again when the machine is less busy; check its free memory, and RAY_TMPDIR if set"
        raise StoppedError("Ray does not start on this machine", got=one_line(error), hint=hint) from error


@contextmanager
def _few_processes() -> Iterator[None]:
    """Lets a Ray that starts within the context start without what it does not need; Ray has no option."""
    starts = {name: getattr(RayNode, name) for name in UNNEEDED}
    for name in UNNEEDED:
        setattr(RayNode, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(RayNode, name, start)


def _join(address: str) -> None:
    """Joins the cluster at an address.

    Raises:
        StoppedError: no cluster answers there.
    """
    os.environ.setdefault(TRIES, "1")
    try:
        ray.init(address=address, **QUIET)
    except Exception as error:  # time-outs among them, and a bare Exception, as above
        hint = "check RAY_ADDRESS, or unset it"
        raise StoppedError("no Ray cluster answers", address, one_line(error), hint) from error


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def nodes() -> tuple[list[Node], list[Node]]:
    """Returns the nodes that are alive, and those that the cluster's autoscaler may still add.

    Raises:
        ConfigError: `EMBED_NODE_GROUPS` can't be understood.
    """
    there = alive_nodes()
    to_come: list[Node] = []
    for most, node in _reported_groups() or told_groups(os.environ.get(NODE_GROUPS, "")):
        alike = sum((each.cpus, each.gpus) == (node.cpus, node.gpus) for each in there)
        to_come += [node] * max(0, most - alike)
    return there, to_come


def alive_nodes() -> list[Node]:
    """Returns the nodes that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(each.get("CPU", 0), each.get("GPU", 0), each.get("object_store_memory")) for each in alive]


def may_grow() -> bool:
    """Tells whether this process joined a cluster, which others may enlarge; a private Ray stays as it is."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _reported_groups() -> list[tuple[int, Node]]:
    """Returns the autoscaler's node groups, with the most nodes of each; empty without an autoscaler.

    Ray 2.60 has the call, but its autoscalers report nothing.
    """
    config = ray._private.state.state.get_cluster_config()  # Ray has no public way to ask
    return [
        (
            UNLIMITED_NODES if group.max_count < 0 else group.max_count,
            Node(group.resources.get("CPU", 0), group.resources.get("GPU", 0)),
        )
        for group in (config.node_group_configs if config else ())
    ]


def told_groups(groups: str) -> list[tuple[int, Node]]:
    """Returns the node groups that the manifests name: `cpu:16x8,gpu:8x8+1`.

    Each is `NAME:MOSTxCPUS+GPUS`: the most nodes, and the CPUs and GPUs of one; `+GPUS` may be missing.

    Raises:
        ConfigError: that can't be understood.
    """
    found = []
    for group in filter(None, groups.split(",")):
        if not (parts := GROUP.fullmatch(group.strip())):
            raise ConfigError("is not a node group", NODE_GROUPS, group, "such as cpu:16x8,gpu:8x8+1")
        found.append((int(parts["most"]), Node(float(parts["cpus"]), float(parts["gpus"] or 0))))
    return found


def stopped(error: BaseException) -> StoppedError:
    """Turns what Ray raised into an error that a retry may solve."""
    died = processes.dead()
    what = f"Ray's {died} died" if died else "Ray ended the job"
    reason = " ".join(str(error).split())  # it must fit the last line of a log
    hint = f"run again to resume{ray_log.hint()}"
    return StoppedError(what, got=reason, hint=hint, more=ray_log.reasons())
