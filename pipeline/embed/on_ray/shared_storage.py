"""Checks that every node of a cluster sees the same files as this process, before it writes any."""

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import storage
from pipeline.config.location import Options, protocol_of
from pipeline.config.sections import Config
from pipeline.config.source import Source
from pipeline.embed.on_ray.cluster import cluster
from pipeline.errors import PipelineError, ResourceError
from pipeline.plan.plan import Plan
from pipeline.source import formats
from pipeline.source.formats import Piece

PROBE_SECONDS, PROBE_PAUSE_SECONDS = 5.0, 0.5
"""Seconds in which a node must see what this one wrote, and between two attempts."""
ANSWER_SECONDS = 60.0
"""Seconds in which a node must answer, the start of a worker included."""


def refuse_private_output(root: str, options: Options) -> None:
    """Refuses an output on a file system that some node of the cluster does not share with this process.

    Writes a file, which a task on each node that could run a writer must find, and removes it again. Does
    nothing for a URL, or with one node.

    Raises:
        ResourceError: a node does not see the file; the node is named.
    """
    if protocol_of(root) != "file" or not (ray.is_initialized() or os.environ.get("RAY_ADDRESS")):
        return
    with cluster():
        if nodes := _others():
            probe(root, options, nodes)


def refuse_blind_nodes(pending: Plan, config: Config) -> None:
    """Refuses sources on a file system that some node of the cluster does not share with this process.

    A task on each node that could run a reader checks one pending file of each local source.

    Raises:
        ResourceError: a node does not see it as this process does; the node is named.
    """
    nodes = _others()
    local = {name: each for name, each in config.source.items() if protocol_of(each.path) == "file"}
    for name, source in local.items() if nodes else ():
        piece = pending.first_of(name)
        if piece and not _unlike(piece, source):
            where = formats.file_path(source, piece.file)
            _ask(nodes, _unlike_for_a_while, (piece, source), "a node does not see this file", where)


def _others() -> list[dict[str, Any]]:
    """Returns the nodes that could run a reader or a writer; none if there is only one node."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [node for node in nodes if node["Resources"].get("CPU")] if len(nodes) > 1 else []


def probe(root: str, options: Options, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Writes a file, and lets each node search for it.

    Raises:
        ResourceError: a node does not see it.
    """
    token = uuid.uuid4().hex
    path, store = f"{root}/.probe-{token}", storage.connect(root, options)
    store.put(path, token.encode())
    try:
        _ask(nodes, _look, (path, options, token), "a node does not see this folder", root)
    finally:
        store.remove(path)


def _ask(
    nodes: Sequence[Mapping[str, Any]],
    function: Callable[..., str],
    arguments: tuple[Any, ...],
    what: str,
    where: str,
) -> None:
    """Asks each node for a problem; an empty answer means that there is none.

    Raises:
        ResourceError: a node names a problem, or does not answer.
    """
    look = ray.remote(num_cpus=0, max_retries=0)(function)
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [look.options(scheduling_strategy=each).remote(*arguments) for each in there]
    for node, answer in zip(nodes, asked, strict=True):
        if problem := _answer(answer):
            address, hint = node["NodeManagerAddress"], "mount the same storage there, or use a URL"
            raise ResourceError(what, where, f"{address}: {problem}", hint)


def _look(path: str, options: Options, token: str) -> str:
    """Returns the problem with a file, as this node sees it; empty if the file holds the token."""
    store, patience = storage.connect(path, options), time.monotonic() + PROBE_SECONDS
    while True:
        try:
            return "" if store.read(path) == token.encode() else "another file is there"
        except PipelineError as error:
            # A network file system may take a moment to show what another node wrote.
            if time.monotonic() > patience:
                return str(error)
        time.sleep(PROBE_PAUSE_SECONDS)


def _unlike_for_a_while(piece: Piece, source: Source) -> str:
    """Returns how a piece's file differs from the planned one, as this node sees it; empty if it does not."""
    patience = time.monotonic() + PROBE_SECONDS
    while (problem := _unlike(piece, source)) and time.monotonic() <= patience:
        time.sleep(PROBE_PAUSE_SECONDS)
    return problem


def _unlike(piece: Piece, source: Source) -> str:
    try:
        formats.look(piece, source)
    except PipelineError as error:
        return error.finding
    return ""


def _answer(asked: Any) -> str:
    try:
        return str(ray.get(asked, timeout=ANSWER_SECONDS))
    except RayError as error:
        return f"it did not answer: {str(error).splitlines()[0]}"
