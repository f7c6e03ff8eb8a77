"""Tests resources: stages that can't run at the same time are refused before anything waits for them."""

import itertools
from typing import Any

import pytest

from pipeline.config.sections import Compute
from pipeline.embed.resources import Node, size_stages
from pipeline.errors import ResourceError


def compute(**values: Any) -> Compute:
    return Compute.model_validate(values)


def test_a_laptop_of_two_cores() -> None:
    found = size_stages(compute(), [Node(2)])
    assert (found.replica_cpus, found.threads, found.replicas) == (1.25, 2, (1, 1))


def test_one_machine_with_eight_gpus() -> None:
    found = size_stages(compute(device="cuda"), [Node(96, 8)])
    assert (found.replica_cpus, found.replica_gpus, found.replicas) == (1, 1, (1, 8))


def test_a_hundred_mixed_nodes_with_a_head_without_cpus() -> None:
    """The smallest node decides the size of a replica, so that all are used; the largest hold several."""
    found = size_stages(compute(), [Node(0), *[Node(16)] * 50, *[Node(64)] * 50])
    assert (found.replica_cpus, found.threads) == (15.25, 16)
    assert found.replicas == (1, 50 * 1 + 50 * 4)


def test_gpu_nodes_beside_cpu_nodes() -> None:
    found = size_stages(compute(device="cuda"), [Node(0), *[Node(32)] * 80, *[Node(8, 4)] * 20])
    assert found.replicas == (1, 80)


def test_replicas_leave_room_for_a_reader_and_a_writer() -> None:
    assert size_stages(compute(cpus_per_replica=1), [Node(4)]).replicas == (1, 3)
    assert size_stages(compute(cpus_per_replica=1, max_replicas=2), [Node(4)]).replicas == (1, 2)


def test_no_packing_of_replicas_leaves_a_reader_without_a_node() -> None:
    assert size_stages(compute(cpus_per_replica=1.5, cpus_per_reader=1), [Node(2)] * 4).replicas == (1, 2)


def test_replicas_of_a_lost_node_do_not_starve_the_readers_of_the_others() -> None:
    """Two nodes of two CPUs would hold three replicas of one CPU; two of them fill the node that is left."""
    assert size_stages(compute(cpus_per_replica=1), [Node(2), Node(2)]).replicas == (1, 1)
    # A second replica of 1.25 CPUs never fits, and a reader always does.
    assert size_stages(compute(), [Node(2), Node(2)]).replicas == (1, 2)


def test_the_only_node_with_a_gpu_may_be_lost(caplog: pytest.LogCaptureFixture) -> None:
    """The job waits for another node, and logs it; a refusal would refuse most small clusters."""
    caplog.set_level("INFO", "pipeline")
    assert size_stages(compute(device="cuda"), [Node(16), Node(16), Node(8, 8)]).replicas == (1, 8)
    assert "would wait for a new node" in caplog.text


def test_what_the_cluster_can_scale_to_counts() -> None:
    """The flow lists nodes that do not exist yet like those that do."""
    assert size_stages(compute(device="cuda"), [Node(4), *[Node(8, 1)] * 10]).replicas == (1, 10)


def test_a_run_asks_at_once_for_the_replicas_of_all_nodes_that_may_come() -> None:
    found = size_stages(compute(device="cuda"), [Node(0)], to_come=[Node(7, 1)] * 8)
    assert (found.replicas, found.at_start) == ((1, 8), 8)
    found = size_stages(compute(), [Node(8)], to_come=[Node(8)] * 3)
    assert (found.replicas, found.at_start) == ((1, 4), 4)


def test_replicas_that_fill_a_node_are_not_asked_for_before_it_is_there() -> None:
    """Two of four CPUs fill a node of eight: of a cluster of one such node, no reader would get any."""
    filling = compute(cpus_per_replica=4)
    found = size_stages(filling, [Node(8)], to_come=[Node(8)] * 3)
    assert (found.replicas, found.at_start) == ((1, 5), 1)
    assert size_stages(filling, [], to_come=[Node(8)] * 3).at_start == 1
    assert size_stages(filling, [Node(8)] * 4).at_start == 5


def test_no_more_replicas_than_splits() -> None:
    found = size_stages(compute(device="cuda", min_replicas=4), [Node(96, 8)])
    few = found.for_splits(3)
    assert (few.replicas, few.at_start) == ((3, 3), 3)
    assert found.for_splits(1000) == found
    assert found.for_splits(0).replicas == (1, 1)


def test_the_places_on_some_nodes() -> None:
    found = size_stages(compute(device="cuda"), [Node(0)], to_come=[Node(7, 1)] * 8)
    assert found.room([Node(0)]) == 0
    assert found.room([Node(0), Node(64), Node(7, 1), Node(7, 2)]) == 3


@pytest.mark.parametrize(
    ("values", "nodes", "message"),
    [
        ({}, [Node(1)], "1 CPUs on 1 nodes for 0.5 \\+ 1 \\+ 0.25"),
        ({"cpus_per_replica": 2}, [Node(2)], "do not fit at the same time"),
        ({"cpus_per_replica": 3}, [Node(2), Node(2)], "do not fit at the same time"),
        ({"device": "cuda"}, [Node(8)], "no node has a GPU"),
        ({}, [Node(0)], "do not fit"),
        ({"device": "cuda", "cpus_per_replica": 4}, [Node(2, 4), Node(16)], "do not fit"),
        ({"device": "cuda"}, [Node(8, 0.5), Node(8, 0.5)], "no node has a GPU"),
        ({"min_replicas": 8}, [Node(4)], "min_replicas is more than fit .*8, 1 fit"),
        ({"min_replicas": 2, "cpus_per_replica": 1}, [Node(2), Node(2)], "min_replicas is more than fit"),
    ],
)
def test_what_would_wait_for_ever_is_refused(values: dict[str, Any], nodes: list[Node], message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        size_stages(compute(**values), nodes)


def test_the_object_store_holds_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pipeline")
    with pytest.raises(ResourceError, match="0.9 GB for 4 of 0.30 GB.*object-store-memory"):
        size_stages(compute(), [Node(2, store_bytes=0.9e9)], payload_bytes=300_000_000)
    assert not caplog.text
    assert size_stages(compute(), [Node(2, store_bytes=2e9)], payload_bytes=300_000_000)
    assert "replicas may wait" in caplog.text
    caplog.clear()
    assert size_stages(compute(), [Node(2, store_bytes=8e9)], payload_bytes=300_000_000)
    assert not caplog.text
    with pytest.raises(ResourceError, match="for 40 of"):
        size_stages(compute(device="cuda"), [Node(64, 8, store_bytes=8e9)], payload_bytes=300_000_000)
    assert size_stages(compute(device="cuda", max_replicas=1), [Node(64, 8, store_bytes=8e9)], 300_000_000)
    # Without a replica no split waits; and a node that does not give its size can't be checked.
    assert size_stages(
        compute(device="cuda"), [Node(64, store_bytes=1), Node(64, 8)], payload_bytes=300_000_000
    )


def test_fractions_add_up() -> None:
    """Binary fractions do not add up: 2 - (2 - 0.1 - 0.4) - 0.4 - 0.1 is below zero."""
    twentieths = range(1, 20)
    for reader, writer, cpus in itertools.product(twentieths, twentieths, (2, 4, 8)):
        if reader + writer <= 20 * (cpus - 1):  # a replica takes at least one
            found = size_stages(
                compute(cpus_per_reader=reader / 20, cpus_per_writer=writer / 20), [Node(cpus)]
            )
            assert found.replicas == (1, 1), (reader, writer, cpus)
    assert size_stages(compute(cpus_per_replica=0.1, cpus_per_reader=0.5), [Node(1)]).replicas == (1, 2)


def test_lanes_of_all_replicas_of_a_node_are_its_cpus() -> None:
    assert size_stages(compute(cpus_per_replica=16), [Node(64)]).threads == 16
    assert size_stages(compute(cpus_per_replica=1), [Node(64)]).threads == 1
    assert size_stages(compute(), [Node(4), Node(64)]).threads == 3  # of the large node's nineteen
