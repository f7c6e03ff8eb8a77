"""Ray itself: the cluster of RAY_ADDRESS, or a private one; its nodes, and those that it can scale to."""

import atexit
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config

from pipeline.embed.on_ray import ray_log
from pipeline.embed.resources import Node
from pipeline.errors import ExitCode, StoppedError

KEEP_WORKERS = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
"""Ray ends a worker that was idle for a second, and each split's write would pay for the start of a new one:
a second of a processor, which on two cores and with splits of three seconds cost a replica 27 % of its speed.
Raylets read it; those of a cluster that is there already have their own (k8s/Dockerfile)."""
UNWATCHED = {"RAY_task_events_report_interval_ms": "0", "RAY_event_stats": "0"}
"""What each process of Ray tells of itself every second is for a dashboard and its state API. A private Ray
has neither, and of two cores it takes nearly one percent (docs/decisions.md)."""
LOOPBACK = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
"""Ray listens on all addresses of a machine, unless it is told that it can't be a cluster, as it is on macOS:
then its processes listen on 127.0.0.1 alone. `_node_ip_address` can't ask for that: Ray rewrites it."""
QUIET: Mapping[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
UNLIMITED_NODES = 1000
"""Of a group without a limit."""


@contextmanager
def cluster() -> Iterator[None]:
    """Ray: the cluster of RAY_ADDRESS, else a private one on this machine, ended at the end."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    # Two at least: the stages need to run at the same time, and on one core they take turns well enough.
    cpus = max(2, os.cpu_count() or 2)
    with ray_log.aside(), _started(partial(_join, address)) if address else private(num_cpus=cpus):
        yield


@contextmanager
def private(**options: Any) -> Iterator[None]:
    """A Ray for this process alone, ended at the end.

    Nobody else can join it, from this machine or another: it has a token that no one is told, and listens
    on the loopback interface.

    Args:
        options: more of `ray.init`'s.
    """
    start = partial(ray.init, address="local", include_dashboard=False, **QUIET, **options)
    with _secluded(), _started(start):
        yield


@contextmanager
def _secluded() -> Iterator[None]:
    """While this lasts, a Ray that is started has a token of its own, and other settings of a private one."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # The user may have set those that are for speed alone.
    speed = {name: os.environ.get(name, value) for name, value in (KEEP_WORKERS | UNWATCHED).items()}
    settings = speed | token | LOOPBACK
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
    """Let Ray's core in this process read its settings and token anew: it keeps what it has read once."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _started(start: Callable[[], object]) -> Iterator[None]:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        start()
        if threading.current_thread() is threading.main_thread():
            # Ray puts its own in place, which exits with 15 and a word of no one's making.
            signal.signal(signal.SIGTERM, on_sigterm)
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        # Not by Ray's shutdown: a task that it tries again meanwhile ends the process on the spot, with 1
        # and before anyone has said why. What a driver has begun ends with it, whichever way it goes.
        code = stop.code if isinstance(stop, SystemExit) else ExitCode.RETRYABLE
        atexit.register(_leave, int(code or 0))
        raise
    except BaseException:
        ray.shutdown()  # half-started, too: left to the end of the process, it would have the last word
        raise
    ray.shutdown()


def _join(address: str) -> None:
    """Join the cluster at an address.

    Raises:
        StoppedError: none answers there.
    """
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "check RAY_ADDRESS, or unset it"
        raise StoppedError("no Ray cluster answers", address, str(error).splitlines()[0], hint) from error


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def nodes() -> list[Node]:
    """The nodes that are alive, and those that the cluster's autoscaler may still add."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = [Node(each.get("CPU", 0), each.get("GPU", 0), each.get("object_store_memory")) for each in alive]
    return there + _to_come(there)


def _to_come(there: Sequence[Node]) -> list[Node]:
    """By what the autoscaler has told of its groups; nothing, where there is none."""
    config = ray._private.state.state.get_cluster_config()  # Ray has no public way to ask
    found: list[Node] = []
    for group in config.node_group_configs if config else ():
        node = Node(group.resources.get("CPU", 0), group.resources.get("GPU", 0))
        most = UNLIMITED_NODES if group.max_count < 0 else group.max_count
        alike = sum((each.cpus, each.gpus) == (node.cpus, node.gpus) for each in there)
        found += [node] * max(0, most - alike)
    return found


def stopped(error: Exception) -> StoppedError:
    """What Ray raised, as an error that a retry may mend."""
    reason = " ".join(str(error).split())  # the last line of a log must hold it
    hint = f"run again to resume{ray_log.hint()}"
    return StoppedError("Ray ended the job", got=reason, hint=hint, more=ray_log.reasons())
