"""Resources: what can't run at the same time is said before anything waits for it."""

from typing import Any

import pytest

from pipeline.config import Compute
from pipeline.errors import ResourceError
from pipeline.flow import fit


def nodes(*resources: dict[str, float], dead: int = 0) -> list[dict[str, Any]]:
    alive = [{"Alive": True, "Resources": node} for node in resources]
    return alive + [{"Alive": False, "Resources": {"CPU": 64.0}}] * dead


def compute(**values: Any) -> Compute:
    return Compute.model_validate(values)


def test_a_laptop_of_two_cores() -> None:
    found = fit(compute(), nodes({"CPU": 2}))
    assert (found.replica_cpus, found.threads, found.replicas) == (1, 2, (1, 1))


def test_one_machine_with_eight_gpus() -> None:
    found = fit(compute(device="cuda"), nodes({"CPU": 96, "GPU": 8}))
    assert (found.replica_cpus, found.replica_gpus, found.replicas) == (0.5, 1, (1, 8))


def test_many_nodes_with_a_head_without_cpus() -> None:
    found = fit(compute(), nodes({}, *[{"CPU": 16.0}] * 10))
    assert (found.replica_cpus, found.replicas) == (15, (1, 10))


def test_replicas_leave_room_for_a_reader_and_a_writer() -> None:
    assert fit(compute(cpus_per_replica=1), nodes({"CPU": 4})).replicas == (1, 3)
    assert fit(compute(cpus_per_replica=1, max_replicas=2), nodes({"CPU": 4})).replicas == (1, 2)


def test_no_packing_of_replicas_leaves_a_reader_without_a_node() -> None:
    four = nodes(*[{"CPU": 2.0}] * 4)
    assert fit(compute(cpus_per_replica=1.5, cpus_per_reader=1), four).replicas == (1, 3)


@pytest.mark.parametrize(
    ("values", "cluster", "message"),
    [
        ({}, nodes({"CPU": 1}), "1 CPUs on 1 nodes for 0.5 \\+ 1 \\+ 0.25"),
        ({"cpus_per_replica": 2}, nodes({"CPU": 2}), "do not fit at the same time"),
        ({"cpus_per_replica": 3}, nodes({"CPU": 2}, {"CPU": 2}), "do not fit at the same time"),
        ({"device": "cuda"}, nodes({"CPU": 8}), "no node has a GPU"),
        ({}, nodes({"CPU": 1}, dead=3), "do not fit"),
        ({}, nodes({}), "do not fit"),
        ({"device": "cuda", "cpus_per_replica": 4}, nodes({"CPU": 2, "GPU": 4}, {"CPU": 16}), "do not fit"),
        ({"device": "cuda"}, nodes({"CPU": 8, "GPU": 0.5}, {"CPU": 8, "GPU": 0.5}), "no node has a GPU"),
        ({"min_replicas": 8}, nodes({"CPU": 4}), "min_replicas is more than fit .*8, 1 fit"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    values: dict[str, Any], cluster: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ResourceError, match=message):
        fit(compute(**values), cluster)
