"""Connects the three stages in a graph of Ray Data, runs it, and watches its results."""

import atexit
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError

from pipeline import telemetry
from pipeline.config.sections import Compute
from pipeline.dataset.record import START, Failure, ShardRecord
from pipeline.embed.encode import Encode
from pipeline.embed.job import Job
from pipeline.embed.on_ray import metrics, shared_storage
from pipeline.embed.on_ray.capacity import Capacity
from pipeline.embed.on_ray.cluster import cluster, may_grow, nodes, stopped
from pipeline.embed.on_ray.feed import feed
from pipeline.embed.on_ray.watchdog import RemoteSentry, Watchdog
from pipeline.embed.read import read_scan
from pipeline.embed.resources import Resources, size_stages
from pipeline.embed.row import from_row
from pipeline.embed.unseen import settled
from pipeline.embed.write import write_row
from pipeline.errors import (
    ExitCode,
    ModelError,
    NonFiniteError,
    OutputError,
    PipelineError,
    ResourceError,
    StartError,
)
from pipeline.plan.plan import Plan
from pipeline.telemetry.liveness import NO_ACTIVITY, StagesStatus

BLOCK_BYTES = 1 << 20
"""The size at which a reader's splits go on: with Ray's own 128 MB, replicas would wait."""
LOOK_SECONDS = 2.0
"""Seconds between two checks of the watchdog, which also report progress."""
REPORT_SECONDS = 15.0
"""Seconds in which a cluster that is too small may still list more nodes, or what its autoscaler may add."""
MAX_FAILURES = 3
"""Splits that fail because replicas can't start, before a run in which no replica could start ends."""
MAX_FAILED_WRITES, WRITE_SECONDS = 5, 60
"""Writes that fail in a row, and for how many seconds, before a run ends: a full disk, an expired token."""
OUTPUT_CODES = (ExitCode.CONFIG, ExitCode.RETRYABLE)
EXIT_SECONDS = 30
"""Seconds for a replica's exit; then the kernel ends it, because it holds a device. It happened once that
Ray's part of the exit hung: the driver had been stopped, and no raylet was left to kill the process."""

Arrived = ShardRecord | Failure


def run(
    pending: Plan, job: Job, tell: Callable[[StagesStatus], None] | None = None
) -> Generator[Arrived, None, None]:
    """Runs the pending splits; yields records and failures in the order in which they are made.

    Args:
        tell: a function that is called every few seconds with the progress of the stages.

    Raises:
        ResourceError: the cluster can't hold a reader, a replica and a writer at the same time.
        StoppedError: Ray gave up.
        StalledError: no process showed life for too long.
        StartError: no replica can start.
        ModelError: the checkpoint gives no finite vectors.
        OutputError: writes keep failing.
    """
    with cluster():
        resources = stage_resources(job)
        shared_storage.refuse_blind_nodes(pending, job.config)
        yield from settled(pending, job, partial(_run, resources=resources, tell=tell or (lambda _: None)))


def _run(
    pending: Plan, job: Job, resources: Resources, tell: Callable[[StagesStatus], None]
) -> Iterator[Arrived]:
    resources = resources.for_splits(len(pending.split_ids))
    telemetry.event("starting", splits=len(pending.split_ids), replicas=resources.replicas[1])
    watchdog = Watchdog(job, job.config.compute.watchdog_minutes * 60)
    graph = _graph(
        feed(pending, BLOCK_BYTES), replace(job, threads=resources.threads), resources, watchdog.sentry
    )
    return _watched(graph, watchdog, Capacity(resources), len(pending.split_ids), tell)


def stage_resources(job: Job) -> Resources:
    """Returns the resources of the stages on this cluster.

    A cluster that has just started may not list all its nodes yet, so it is asked again for some seconds.

    Raises:
        ResourceError: it can't hold a reader, a replica and a writer at the same time.
    """
    patience = time.monotonic() + REPORT_SECONDS
    while True:
        there, to_come = nodes()
        try:
            return size_stages(job.config.compute, there, job.payload_bytes, to_come)
        except ResourceError:
            if not may_grow() or time.monotonic() > patience:
                raise
        time.sleep(1)


def _watched(
    graph: Dataset,
    watchdog: Watchdog,
    capacity: Capacity,
    pending: int,
    tell: Callable[[StagesStatus], None],
) -> Iterator[Arrived]:
    """Yields the results of a graph, and checks the watchdog meanwhile.

    Another thread waits for Ray, so that this one can check the clock, and stop at a signal.
    """
    arrivals: queue.SimpleQueue[Arrived | BaseException | None] = queue.SimpleQueue()
    threading.Thread(target=_consume, args=(graph, arrivals), daemon=True).start()
    looked = -LOOK_SECONDS
    starts, writes, replicas = _Starts(), _Writes(), 0
    done = failed = 0
    while True:
        if time.monotonic() - looked >= LOOK_SECONDS:
            places = capacity.look(pending - done)  # first: a tracker that starts takes long to answer
            if standing := watchdog.look(pending - done, failed):
                tell(replace(standing, replicas=places))
                replicas = standing.stages.get("encode", NO_ACTIVITY).places
            looked = time.monotonic()
        try:
            arrived = arrivals.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            continue
        if arrived is None:
            watchdog.look(pending - done, failed)
            return
        if isinstance(arrived, BaseException):
            raise stopped(arrived) if isinstance(arrived, RayError | RuntimeError) else arrived
        failed += isinstance(arrived, Failure)
        done += 1
        starts.add(arrived, replicas)
        writes.add(arrived)
        yield arrived


class _Starts:
    """The replicas that could not start, or gave no finite vectors, until one is known to work."""

    def __init__(self) -> None:
        self._broken: set[str] = set()
        self._failures = 0
        self._one_works = False

    def add(self, arrived: Arrived, replicas: int) -> None:
        """Adds the result of a split.

        Args:
            replicas: the number of replicas that have taken a split so far.

        Raises:
            StartError: none of them could start, in many attempts.
            ModelError: all of them give only NaN or infinity.
        """
        if isinstance(arrived, ShardRecord):
            self._one_works = True
        elif arrived.stage == START or arrived.kind == NonFiniteError.__name__:
            self._broken.add(arrived.process)
            self._failures += 1
            if not self._one_works and self._failures >= MAX_FAILURES and len(self._broken) >= replicas:
                raise _hopeless(arrived)


def _hopeless(failure: Failure) -> PipelineError:
    """Returns the error of a run whose replicas all fail like this one."""
    if failure.stage == START:
        hint, code = "fix that, and run again", failure.exit_code
        return StartError("no replica can start", got=failure.message, hint=hint, exit_code=code)
    hint = "most likely its weights are damaged: fetch it again; or try model.dtype float32"
    return ModelError("no replica gets finite vectors of this checkpoint", got=failure.message, hint=hint)


class _Writes:
    """The writes that failed in a row, and the time of the first.

    Args:
        clock: returns seconds since any fixed time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed, self._since = 0, 0.0

    def add(self, arrived: Arrived) -> None:
        """Adds the result of a split.

        Raises:
            OutputError: writes keep failing, and all that is embedded meanwhile is lost.
        """
        if isinstance(arrived, ShardRecord):
            self._failed = 0
        elif _is_of_output(arrived):
            self._since = self._since if self._failed else self._clock()
            self._failed += 1
            silent = self._clock() - self._since
            if self._failed >= MAX_FAILED_WRITES and silent >= WRITE_SECONDS:
                what = f"the last {self._failed} shards could not be written, for {silent / 60:.1f} minutes"
                hint = "fix that, and run again: what is written stays"
                raise OutputError(what, got=arrived.message, hint=hint, exit_code=arrived.exit_code)


def _is_of_output(failure: Failure) -> bool:
    """Tells whether the storage refused a shard."""
    is_storages = failure.exit_code in OUTPUT_CODES and failure.kind != NonFiniteError.__name__
    return failure.stage == "write" and is_storages


def _consume(graph: Dataset, arrivals: "queue.SimpleQueue[Arrived | BaseException | None]") -> None:
    try:
        for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for at in range(batch.num_rows):
                arrivals.put(_result(batch.slice(at, 1)))
        arrivals.put(None)
    except BaseException as error:  # the thread that takes the arrivals raises it
        arrivals.put(error)


def _result(row: pa.Table) -> Arrived:
    """Returns the result of the split in a row."""
    result = from_row(row)
    assert isinstance(result, Arrived)
    return result


def _graph(splits: Dataset, job: Job, resources: Resources, sentry: RemoteSentry) -> Dataset:
    compute: Compute = job.config.compute
    one_split: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    told = {"job": job, "sentry": sentry}
    least, most = resources.replicas
    rows = splits.map_batches(run_read, fn_kwargs=told, num_cpus=compute.cpus_per_reader, **one_split)
    vectors = rows.map_batches(
        RayEncode,
        fn_constructor_kwargs=told,
        compute=ActorPoolStrategy(
            min_size=least,
            max_size=most,
            initial_size=resources.at_start,
            max_concurrent_calls_per_actor=resources.calls,  # Ray still encodes in one thread
            max_tasks_in_flight_per_actor=resources.calls + 1,
        ),
        num_cpus=resources.replica_cpus,
        num_gpus=resources.replica_gpus or None,
        **one_split,
    )
    return vectors.map_batches(run_write, fn_kwargs=told, num_cpus=compute.cpus_per_writer, **one_split)


class RayEncode(Encode):
    """A replica in a process that releases its device."""

    def __init__(self, job: Job, sentry: RemoteSentry) -> None:
        super().__init__(job, sentry)
        atexit.register(signal.alarm, EXIT_SECONDS)


def run_read(row: pa.Table, job: Job, sentry: RemoteSentry) -> Iterator[pa.Table]:
    """Reads a scan, and counts its storage requests."""
    with metrics.storage(job):
        yield from read_scan(row, job, sentry)


def run_write(row: pa.Table, job: Job, sentry: RemoteSentry) -> pa.Table:
    """Writes a split, and counts its storage requests; then counts the split, which is done here."""
    with metrics.storage(job):
        written = write_row(row, job, sentry)
    metrics.count(job, _result(written))
    return written
