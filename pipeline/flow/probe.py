"""Whether every node of a cluster sees the same files as this process, asked before it writes any."""

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import storage
from pipeline.errors import PipelineError, ResourceError
from pipeline.flow.cluster import cluster
from pipeline.places import Options, protocol_of

PROBE_SECONDS, PROBE_PAUSE_SECONDS = 5.0, 0.5
"""How long a node may take to see what this one wrote."""
ANSWER_SECONDS = 60.0
"""How long it may take to say so, the start of a worker included."""


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
