"""Sizes a job for a cluster: checks that its stages fit side by side, and chooses the number of replicas.

A job whose stages do not fit waits for ever, and Ray says nothing; so it is refused before it starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline import telemetry
from pipeline.config.sections import Compute
from pipeline.errors import ResourceError

GPU_REPLICA_CPUS = 1.0
PAYLOADS_PER_REPLICA = 4
"""Splits of a replica in the object store at the same time: one each is read, waits, encoded and written."""
GPU_CALLS = 2
"""Splits in a replica with a GPU: while one is encoded, the one before leaves and the next arrives."""
CPU_UNITS = 10_000
"""Units of a CPU. Ray counts in ten-thousandths, and so do we, because sums of fractions are not exact."""
ROOMY = 4
"""The multiple of that with which a replica never waits. With splits of 300 MB it was idle up to 1.3 s
between two at 2 GiB, and 0.02 s at 8 GiB."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that a cluster has, or can scale to; one without CPUs and GPUs runs no task of the job.

    store_bytes: the size of its object store; None if unknown.
    """

    cpus: float
    gpus: float = 0
    store_bytes: float | None = None


@dataclass(frozen=True)
class Resources:
    """The resources of a replica, and the number of replicas.

    replicas: the least and the most.  at_start: those that a run asks for at once.
    """

    replica_cpus: float
    replica_gpus: float
    threads: int | None
    replicas: tuple[int, int]
    at_start: int = 1

    @property
    def calls(self) -> int:
        """Returns how many splits a replica has at the same time. It encodes one of them."""
        return GPU_CALLS if self.replica_gpus else 1

    def for_splits(self, splits: int) -> "Resources":
        """Returns the resources for so many splits: a replica without one would only wait for its node."""
        least, most = (max(1, min(each, splits)) for each in self.replicas)
        return replace(self, replicas=(least, most), at_start=min(self.at_start, most))

    def room(self, nodes: Sequence[Node]) -> int:
        """Returns how many replicas these nodes hold if they run nothing else."""
        return sum(_places(node, self.replica_cpus, bool(self.replica_gpus)) for node in nodes)


def size_stages(
    compute: Compute, nodes: Sequence[Node], payload_bytes: float = 0, to_come: Sequence[Node] = ()
) -> Resources:
    """Returns the resources of the stages on these nodes.

    The number of replicas is limited. Otherwise those of a lost node, started again on the others, could take
    the last CPUs from readers and writers, and the job would hang.

    A run asks at once for all replicas that may come to be, so that all their nodes start at the same time:
    Ray would ask for one after the other. Where replicas fill a node, it asks only for those that fit now:
    more of them would take each new node's CPUs before a reader gets any.

    Args:
        nodes: the nodes that the cluster has.
        payload_bytes: the size of the largest split between two stages.
        to_come: the nodes that its autoscaler may add.

    Raises:
        ResourceError: one reader, one replica and one writer do not fit at the same time, or the object store
            does not hold the splits between them.
    """
    there, nodes = nodes, [*nodes, *to_come]
    on_gpu = compute.device == "cuda"
    if on_gpu and not any(node.gpus >= 1 for node in nodes):
        cpus = sum(node.cpus for node in nodes)
        raise ResourceError(
            "compute.device is cuda, but no node has a GPU",
            got=f"{cpus:g} CPUs",
            hint="set compute.device to cpu, or add GPUs",
        )
    need = _Need(_replica_cpus(compute, nodes), on_gpu, (compute.cpus_per_reader, compute.cpus_per_writer))
    room = need.most(nodes)
    if not room:
        raise _too_small(need, nodes)
    if compute.min_replicas > room:
        raise ResourceError(
            "compute.min_replicas is more than fit",
            got=f"{compute.min_replicas}, {room} fit",
            hint="lower it, or add nodes",
        )
    most = min(compute.max_replicas or room, room)
    _check_stores(need, nodes, payload_bytes, most)
    threads = compute.threads_per_replica or (None if on_gpu else need.threads(nodes))
    at_start = most if need.leaves_room(nodes) else min(most, need.most(there))
    replicas = (compute.min_replicas, most)
    return Resources(need.replica, float(on_gpu), threads, replicas, max(compute.min_replicas, at_start))


@dataclass(frozen=True)
class _Need:
    """The CPUs and the GPU that a replica needs, and the CPUs of the tasks that must fit beside replicas."""

    replica: float
    on_gpu: bool
    others: tuple[float, float]

    @property
    def payloads(self) -> int:
        """Returns the splits of a replica that are in the object store at the same time."""
        return PAYLOADS_PER_REPLICA + (GPU_CALLS - 1 if self.on_gpu else 0)

    def places(self, node: Node) -> int:
        """Returns how many replicas a node holds if it runs nothing else."""
        return _places(node, self.replica, self.on_gpu)

    def leaves_room(self, nodes: Sequence[Node]) -> bool:
        """Tells whether a reader and a writer fit on each node beside all replicas that it can hold."""
        return all(
            _units(node.cpus) - _units(self.replica) * places >= sum(map(_units, self.others))
            for node in nodes
            if (places := self.places(node))
        )

    def threads(self, nodes: Sequence[Node]) -> int:
        """Returns the threads of a replica on CPUs: its share of a node full of replicas."""
        shares = [node.cpus / self.places(node) for node in nodes if self.places(node)]
        return max(1, math.floor(min(shares, default=1)))

    def most(self, nodes: Sequence[Node]) -> int:
        """Returns the most replicas with which no other task starves, even if the largest node is lost."""
        room = self._beside_others(nodes)
        left = sorted(nodes, key=lambda node: (self.places(node), node.cpus))[:-1]
        if not room or not any(node.cpus for node in left):
            return room
        after = self._beside_others(left)
        if not after:
            telemetry.event("the job would wait for a new node if it lost the largest", nodes=len(nodes))
            return room
        return room if after == sum(map(self.places, left)) else min(room, after)

    def _beside_others(self, nodes: Sequence[Node]) -> int:
        """Returns the most replicas beside which all other tasks still find a node at the same time."""
        for most in range(sum(map(self.places, nodes)), 0, -1):
            left, unplaced = [], most
            for node in nodes:
                here = min(self.places(node), unplaced)
                left.append(_units(node.cpus) - _units(self.replica) * here)
                unplaced -= here
            for task in sorted(self.others, reverse=True):
                roomiest = left.index(max(left))
                left[roomiest] -= _units(task)
            if min(left) >= 0:
                return most
        return 0


def _places(node: Node, cpus: float, on_gpu: bool) -> int:
    by_cpus = _units(node.cpus) // _units(cpus)
    return int(min(node.gpus, by_cpus) if on_gpu else by_cpus)


def _units(cpus: float) -> int:
    return round(cpus * CPU_UNITS)


def _replica_cpus(compute: Compute, nodes: Sequence[Node]) -> float:
    """Returns the CPUs of a replica; without GPUs, the smallest useful node's less a reader's and a writer's.

    So replicas alone never fill a node, and larger nodes hold several.
    """
    if compute.cpus_per_replica:
        return compute.cpus_per_replica
    if compute.device == "cuda":
        return GPU_REPLICA_CPUS
    sizes = [node.cpus for node in nodes if node.cpus]
    smallest = min((cpus for cpus in sizes if cpus >= 2), default=max(sizes, default=0))
    return max(1.0, smallest - compute.cpus_per_reader - compute.cpus_per_writer)


def _too_small(need: _Need, nodes: Sequence[Node]) -> ResourceError:
    reader, writer = need.others
    cpus = sum(node.cpus for node in nodes)
    return ResourceError(
        "a reader, a replica and a writer do not fit at the same time",
        got=f"{cpus:g} CPUs on {len(nodes)} nodes for {reader:g} + {need.replica:g} + {writer:g}",
        hint="lower compute.cpus_per_replica, cpus_per_reader or cpus_per_writer, or add CPUs",
    )


def _check_stores(need: _Need, nodes: Sequence[Node], payload_bytes: float, most: int) -> None:
    """Checks that each node that may hold replicas holds their splits, too."""
    for node in nodes:
        payloads = need.payloads * min(need.places(node), most)
        wanted = payloads * payload_bytes
        if node.store_bytes is None or wanted * ROOMY <= node.store_bytes:
            continue
        got = f"{node.store_bytes / 1e9:.1f} GB for {payloads} of {payload_bytes / 1e9:.2f} GB"
        hint = "raise it (--object-store-memory), or smaller splits (output.max_split_bytes) in a new dataset"
        if wanted > node.store_bytes:
            raise ResourceError("a node's object store does not hold the splits in flight", "", got, hint)
        telemetry.event("replicas may wait: the object store is small", got=got, hint=hint)
        return
