"""Tests what a driver knows of the nodes that may come, and what it says while replicas wait for them."""

import pytest

from pipeline.embed.on_ray import capacity
from pipeline.embed.on_ray.capacity import Capacity
from pipeline.embed.on_ray.cluster import nodes, told_groups
from pipeline.embed.resources import Node, Resources
from pipeline.errors import ConfigError
from pipeline.telemetry.liveness import Replicas

EIGHT = Resources(1, 1, None, (1, 8), at_start=8)


def test_the_groups_that_manifests_name() -> None:
    assert told_groups("") == []
    assert told_groups("cpu:16x7.5, gpu:8x7+1") == [(16, Node(7.5)), (8, Node(7, 1))]


@pytest.mark.parametrize(
    "groups", ["16x8", "cpu:16", "cpu:16x8+", "cpu:-1x8", "cpu:16x8;gpu:8x8+1", "cpu:\uff11x8"]
)
def test_groups_that_mean_nothing(groups: str) -> None:
    with pytest.raises(ConfigError, match="EMBED_NODE_GROUPS: is not a node group.*cpu:16x8,gpu:8x8"):
        told_groups(groups)


def test_what_is_there_is_not_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(alive: bool = True, **resources: float) -> dict[str, object]:
        return {"Alive": alive, "Resources": resources}

    gone = node(alive=False, CPU=7.0, GPU=1.0)
    alive = [node(), node(CPU=7.0, GPU=1.0), node(CPU=4.0)]
    monkeypatch.setattr("ray.nodes", lambda: [*alive, gone])
    monkeypatch.setattr("ray._private.state.state.get_cluster_config", lambda: None)
    monkeypatch.setenv("EMBED_NODE_GROUPS", "cpu:2x7,gpu:3x7+1")
    there, to_come = nodes()
    assert there == [Node(0), Node(7, 1), Node(4)]
    assert to_come == [Node(7)] * 2 + [Node(7, 1)] * 2


def test_waiting_is_said_once_a_minute_until_all_nodes_are_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline")
    now, there = [0.0], [Node(0)]
    monkeypatch.setattr(capacity, "alive_nodes", lambda: there)
    watched = Capacity(EIGHT, lambda: now[0])
    for now[0] in range(0, 130, 2):
        assert watched.look(100) == Replicas(0, 8)
    assert caplog.messages == ["waiting for nodes replicas=0 of 8 have a place"] * 3
    there += [Node(7, 1)] * 8
    for now[0] in range(130, 300, 2):
        found = watched.look(100)
    assert found == Replicas(8, 8)
    assert len(caplog.messages) == 3


def test_at_the_end_no_more_replicas_are_wanted_than_splits_are_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline")
    monkeypatch.setattr(capacity, "alive_nodes", lambda: [Node(7, 1)] * 3)
    assert Capacity(EIGHT).look(2) == Replicas(2, 2)
    assert caplog.messages == []
