"""The graph on Ray Data: read and tokenise on CPUs, encode on a pool of replicas, write on CPUs.

One split is one Ray row, from end to end: Ray may move, retry and spill it, but neither cut nor merge it.
The only file that imports Ray.
"""

import logging
import math
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import matching, storage, telemetry
from pipeline.config import Compute
from pipeline.dataset import ShardRecord
from pipeline.errors import PipelineError, ResourceError, StoppedError
from pipeline.places import Options, protocol_of
from pipeline.plan import Plan
from pipeline.reuse import Base
from pipeline.stages import Encode, Failure, Job, feed_row, read, result, write

SINGLE_BLOCKS = 2000
"""Up to here each split is a block of its own, the easiest to spread; above, blocks cost too much."""
SPLITS_PER_BLOCK = 8
MOST_BLOCKS = 20_000
BLOCK_BYTES = 1 << 20
"""A reader's splits go on when this much of them is made: Ray's own 128 MB would keep replicas waiting."""
SHUFFLE_BLOCK_BYTES = 128 << 20
MOST_PARTITIONS = 1000
PROBE_SECONDS, PROBE_PAUSE_SECONDS = 5.0, 0.5
"""How long a node may take to see what this one wrote."""
ANSWER_SECONDS = 60.0
"""How long it may take to say so, the start of a worker included."""
TASKS_PER_CPU = 2
"""Of `spread`, under way at the same time: none waits for the driver, and none piles up."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Resources:
    """What one task of each stage takes, and how many replicas there may be."""

    replica_cpus: float
    replica_gpus: float
    threads: int | None
    replicas: tuple[int, int]


def refuse_private_output(root: str, options: Options) -> None:
    """Refuse an output on a file system that some node of the cluster does not share with this process.

    A file that is written here must be found by a task on each node that could run a writer; it is removed
    again. Nothing is done for a URL, or where there is one node.

    Raises:
        ResourceError: a node does not see the file; the node is named.
    """
    if protocol_of(root) != "file" or not (ray.is_initialized() or os.environ.get("RAY_ADDRESS")):
        return
    with cluster():
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if len(nodes) > 1:
            probe(root, options, [node for node in nodes if node["Resources"].get("CPU")])


def probe(root: str, options: Options, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Let each node look for a file that is written here.

    Raises:
        ResourceError: a node does not see it.
    """
    token = uuid.uuid4().hex
    path, store = f"{root}/.probe-{token}", storage.connect(root, options)
    store.put(path, token.encode())
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    try:
        asked = [look.options(scheduling_strategy=each).remote(path, options, token) for each in there]
        for node, answer in zip(nodes, asked, strict=True):
            if problem := _answer(answer):
                address, hint = node["NodeManagerAddress"], "mount the same storage there, or use a URL"
                raise ResourceError("a node does not see this folder", root, f"{address}: {problem}", hint)
    finally:
        store.remove(path)


def _look(path: str, options: Options, token: str) -> str:
    """What is wrong with a file, as seen from this node; nothing if it holds the token."""
    store, patience = storage.connect(path, options), time.monotonic() + PROBE_SECONDS
    while True:
        try:
            return "" if store.read(path) == token.encode() else "another file is there"
        except PipelineError as error:
            # A network file system may take a moment to show what another node wrote.
            if time.monotonic() > patience:
                return str(error)
        time.sleep(PROBE_PAUSE_SECONDS)


def _answer(asked: Any) -> str:
    try:
        return str(ray.get(asked, timeout=ANSWER_SECONDS))
    except RayError as error:
        return f"it did not answer: {str(error).splitlines()[0]}"


def run(pending: Plan, job: Job) -> Generator[ShardRecord | Failure, None, None]:
    """Do the pending splits; records and failures arrive in any order, as they are made.

    Raises:
        ResourceError: the cluster can't hold a reader, a replica and a writer at the same time.
        StoppedError: Ray gave up.
    """
    compute = job.config.compute
    with cluster():
        resources = fit(compute, ray.nodes())
        telemetry.event("starting", splits=len(pending.split_ids), replicas=resources.replicas[1])
        graph = _graph(_feed(pending), replace(job, threads=resources.threads), compute, resources)
        try:
            for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for note in batch.column("note").to_pylist():
                    yield result(note)
        except (RayError, RuntimeError) as error:
            raise _stopped(error) from error


def match(pending: Plan, job: Job, base: Base) -> int:
    """Find what the base has of the pending splits, whatever its files are called; how many documents.

    Raises:
        StoppedError: Ray gave up.
    """
    kind = base.document_type()
    if kind is None:
        return 0
    buckets = math.ceil(sum(base.manifest.column("rows").to_pylist()) / matching.DOCUMENTS_PER_BUCKET)
    one: dict[str, Any] = {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "num_cpus": job.config.compute.cpus_per_reader,
    }
    with cluster():
        shards = [{"shard": shard} for shard in base.manifest.column("split_id").to_pylist()]
        old = ray.data.from_items(shards, override_num_blocks=min(len(shards), MOST_BLOCKS)).map_batches(
            matching.base_documents, fn_kwargs={"base": base, "buckets": buckets}, **one
        )
        wanted = {"job": job, "kind": kind, "buckets": buckets}
        new = _feed(pending).map_batches(matching.wanted_documents, fn_kwargs=wanted, **one)
        partitions = {"num_partitions": max(2, min(buckets, MOST_PARTITIONS))}
        one_group = {"batch_format": "pyarrow", "num_cpus": job.config.compute.cpus_per_reader}
        _set_context(SHUFFLE_BLOCK_BYTES)
        found = old.union(new).groupby("bucket", **partitions).map_groups(matching.join, **one_group)
        kept = found.groupby("split_id", **partitions).map_groups(
            matching.keep, fn_kwargs={"job": job}, **one_group
        )
        try:
            return int(kept.sum("documents") or 0)
        except (RayError, RuntimeError) as error:
            raise _stopped(error) from error


def spread(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """What a function makes of each item, in order; each item is a task of one CPU.

    Raises:
        Exception: what the function raised.
        StoppedError: Ray gave up.
    """
    with cluster():
        task = ray.remote(num_cpus=1)(function)
        under_way: deque[Any] = deque()
        most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        try:
            for item in items:
                under_way.append(task.remote(item))
                if len(under_way) >= most:
                    yield ray.get(under_way.popleft())
            while under_way:
                yield ray.get(under_way.popleft())
        except RayError as error:
            if isinstance(error, RayTaskError):
                raise error.cause from error
            reason = " ".join(str(error).split())
            raise StoppedError("Ray ended the job", got=reason, hint="run again") from error


def fit(compute: Compute, nodes: list[dict[str, Any]]) -> Resources:
    """Resources of the stages on these nodes (as `ray.nodes()` tells of them).

    Raises:
        ResourceError: one reader, one replica and one writer do not fit at the same time; a job that
            started would wait for ever.
    """
    on_gpu = compute.device == "cuda"
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [float(node.get("CPU", 0)) for node in alive]
    gpus = [float(node.get("GPU", 0)) for node in alive]
    replica = compute.cpus_per_replica or (0.5 if on_gpu else max(1.0, math.floor(max(cpus, default=0)) - 1))
    reader, writer = compute.cpus_per_reader, compute.cpus_per_writer
    if on_gpu and not any(gpu >= 1 for gpu in gpus):
        raise ResourceError("compute.device is cuda, but no node has a GPU", got=f"{sum(cpus):g} CPUs")
    places = [
        int(min(gpu, cpu // replica) if on_gpu else cpu // replica)
        for cpu, gpu in zip(cpus, gpus, strict=True)
    ]
    room = _most_replicas(cpus, places, replica, (reader, writer))
    if not room:
        raise ResourceError(
            "a reader, a replica and a writer do not fit at the same time",
            got=f"{sum(cpus):g} CPUs on {len(cpus)} nodes for {reader:g} + {replica:g} + {writer:g}",
            hint="lower compute.cpus_per_replica, cpus_per_reader or cpus_per_writer, or add CPUs",
        )
    if compute.min_replicas > room:
        raise ResourceError(
            "compute.min_replicas is more than fit", got=f"{compute.min_replicas}, {room} fit"
        )
    most = min(compute.max_replicas or room, room)
    threads = compute.threads_per_replica or (None if on_gpu else math.ceil(replica + reader))
    return Resources(replica, float(on_gpu), threads, (compute.min_replicas, most))


def _most_replicas(cpus: list[float], places: list[int], replica: float, others: tuple[float, ...]) -> int:
    """The most replicas beside which each of the other tasks, at the same time, still finds a node."""
    for most in range(sum(places), 0, -1):
        left, unplaced = [], most
        for cpu, count in zip(cpus, places, strict=True):
            left.append(cpu - replica * min(count, unplaced))
            unplaced -= min(count, unplaced)
        for task in sorted(others, reverse=True):
            roomiest = left.index(max(left))
            left[roomiest] -= task
        if min(left) >= 0:
            return most
    return 0


def _stopped(error: Exception) -> StoppedError:
    reason = " ".join(str(error).split())  # the last line of a log must hold it
    return StoppedError("Ray ended the job", got=reason, hint="run again to resume")


@contextmanager
def cluster() -> Iterator[None]:
    """Ray: the cluster of RAY_ADDRESS, else a private one on this machine, ended at the end."""
    if ray.is_initialized():
        yield
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "check RAY_ADDRESS, or unset it"
            raise StoppedError("no Ray cluster answers", address, str(error).splitlines()[0], hint) from error
    else:
        # Two at least: the stages need to run at the same time, and on one core they take turns well enough.
        cpus = max(2, os.cpu_count() or 2)
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
    if threading.current_thread() is threading.main_thread():
        # Ray puts its own in place, which exits with 15 and a word of no one's making.
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _feed(pending: Plan) -> Dataset:
    rows = [feed_row(scan) for scan in pending.scans()]
    per_block = 1 if len(rows) <= SINGLE_BLOCKS else max(SPLITS_PER_BLOCK, len(rows) // MOST_BLOCKS)
    return ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / per_block))


def _graph(splits: Dataset, job: Job, compute: Compute, resources: Resources) -> Dataset:
    _set_context(BLOCK_BYTES)
    one_split: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    least, most = resources.replicas
    rows = splits.map_batches(read, fn_kwargs={"job": job}, num_cpus=compute.cpus_per_reader, **one_split)
    vectors = rows.map_batches(
        Encode,
        fn_constructor_kwargs={"job": job},
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=resources.replica_cpus,
        num_gpus=resources.replica_gpus or None,
        **one_split,
    )
    return vectors.map_batches(write, fn_kwargs={"job": job}, num_cpus=compute.cpus_per_writer, **one_split)


def _set_context(block_bytes: int) -> None:
    context = DataContext.get_current()
    context.target_max_block_size = block_bytes
    # Ray Data's bars and chatter would bury our own progress.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
