"""Runs the `LivenessTracker` as an actor beside the driver, and ends a run that stalls."""

import os
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import telemetry
from pipeline.embed.job import Job
from pipeline.embed.on_ray import metrics, processes, ray_log
from pipeline.errors import StalledError, StoppedError
from pipeline.telemetry.liveness import LivenessTracker, StagesStatus, WorkerProcess

ANSWER_SECONDS = 30.0
SCRAPE_SECONDS = 5.0
OPERATORS = tuple(
    f"ray_data_{name}"
    for name in ("num_tasks_running", "num_queued_blocks", "num_alive_actors", "num_restarting_actors",
                 "num_pending_actors", "obj_store_mem_used")
)  # fmt: skip
"""The metrics of Ray's exporter about the stages; they lag by some 15 s."""


@dataclass(frozen=True)
class RemoteSentry:
    """Reports to the run's `LivenessTracker` from any process. If the tracker is gone, the work continues."""

    watch: Any

    def enter(self, split_id: str, stage: str) -> int:
        """Waits for the answer, so that a process that is killed next has certainly been counted."""
        try:
            return int(ray.get(self.watch.enter.remote(split_id, stage, _place()), timeout=ANSWER_SECONDS))
        except RayError:  # time-outs among them
            return 0

    def leave(self, split_id: str, stage: str) -> None:
        self.watch.leave.remote(split_id, stage)

    def beat(self, split_id: str, stage: str) -> None:
        self.watch.beat.remote(split_id, stage)


class Watchdog:
    """Ends a run in which no process shows life.

    Args:
        limit: the seconds of silence that count as a stall.
    """

    def __init__(self, job: Job, limit: float) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        self.job, self.limit = job, limit

        def alive() -> Collection[str]:  # a local function travels by value, and without our modules
            return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

        self.sentry = RemoteSentry(ray.remote(LivenessTracker).options(**options).remote(alive))

    def look(self, pending: int, failed: int) -> StagesStatus | None:
        """Checks the clock, and sets the metrics of progress.

        Args:
            pending: splits that are not done.  failed: splits that could not be done.

        Returns:
            The progress of the stages; None if the tracker does not answer.

        Raises:
            StoppedError: one of Ray's own processes died. Ray itself may wait for it for a minute.
            StalledError: the limit has passed; the log says what each process was doing.
        """
        if died := processes.dead():
            raise StoppedError(f"Ray's {died} died", hint=f"run again to resume{ray_log.hint()}")
        watch = self.sentry.watch
        metrics.standing(self.job, pending, failed)
        try:
            standing: StagesStatus = ray.get(watch.standing.remote(), timeout=ANSWER_SECONDS)
        except RayError:  # time-outs among them
            return None  # it is started again, and counts from zero
        quiet = standing.quiet
        metrics.quiet(self.job, quiet)
        if quiet <= self.limit:
            return standing
        for line in _told(watch):
            telemetry.event(f"stalled: {line}")
        raise StalledError(
            f"no micro-batch, read or write for {quiet / 60:.1f} minutes",
            got=f"compute.watchdog_minutes {self.limit / 60:g}",
            hint=f"the log says what each process was doing; run again to resume{ray_log.hint()}",
            more=ray_log.reasons(),
        )


def _told(watch: Any) -> list[str]:
    """Finds out what each process was doing, if possible: errors here must not hide the stall itself."""
    found: list[str] = []
    for ask in (lambda: ray.get(watch.report.remote(), timeout=ANSWER_SECONDS), _state):
        try:
            found += ask()
        except Exception as error:  # a sick cluster may raise anything
            found.append(repr(error))
    return found


@cache
def _place() -> WorkerProcess:
    return WorkerProcess(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), os.getpid())


def _state() -> list[str]:
    """Returns Ray's view of the nodes, the free resources and the stages."""
    found = []
    for node in ray.nodes():
        address = node["NodeManagerAddress"]
        state = "alive" if node["Alive"] else "dead"
        total = {name: node["Resources"].get(name, 0) for name in ("CPU", "GPU")}
        found.append(f"node {address} is {state}: {total}")
        if node["Alive"]:
            found += _operators(f"http://{address}:{node['MetricsExportPort']}/metrics")
    free = ray.available_resources()
    return [f"free: CPU {free.get('CPU', 0):g}, GPU {free.get('GPU', 0):g}", *found]


def _operators(url: str) -> list[str]:
    try:
        with urllib.request.urlopen(url, timeout=SCRAPE_SECONDS) as answer:
            text = answer.read().decode()
    except OSError as error:
        return [f"{url}: {error}"]
    return [line for line in text.splitlines() if line.startswith(OPERATORS)]
