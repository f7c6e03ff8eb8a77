"""Tests runs on a cluster that Ray's autoscaler makes larger and smaller, from zero workers on.

The nodes are processes of this machine, and their GPUs are only numbers: a replica sleeps as long as a device
would need.
"""

import json
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.device import RATE
from tests.clusters import Cluster, Group, cluster
from tests.conftest import read_dataset, texts, write_config

ROWS_PER_SHARD = 20


def prepare(folder: Path, values: dict[str, Any], splits: int) -> Path:
    """Writes a corpus of so many splits, and the config of a run over it on GPUs."""
    keys = list(range(splits * ROWS_PER_SHARD))
    (folder / "rows").mkdir()
    pq.write_table(
        pa.table({"key": keys, "text": texts(len(keys)), "topic": ["t"] * len(keys)}),
        folder / "rows" / "0.parquet", row_group_size=ROWS_PER_SHARD,
    )  # fmt: skip
    source = values["source"]["docs"] | {"path": f"{folder}/rows/*.parquet"}
    output = values["output"] | {"rows_per_shard": ROWS_PER_SHARD}
    compute = {"device": "cuda", "cpus_per_replica": 1}
    return write_config(
        folder / "job.json", values | {"source": {"docs": source}, "output": output, "compute": compute}
    )


def run(ray: Cluster, config: Path, rate: float, name: str = "run") -> str:
    """Runs a job whose replicas embed `rate` rows a second; returns its log."""
    runtime = {"worker_process_setup_hook": "benchmarks.device.arm", "env_vars": {RATE: str(rate)}}
    return ray.run(name, f"python -m jobs.embed {config}", json.dumps(runtime))


def autoscaling(stack: ExitStack, folder: Path, told: str, **groups: Group) -> Cluster:
    """Starts a cluster of a head without CPUs, whose driver is told of groups to come."""
    environment = {"EMBED_NODE_GROUPS": told}
    return stack.enter_context(cluster(folder / "ray.log", 0, environment=environment, groups=groups))


def wait_for(what: Callable[[], bool], seconds: float = 900) -> None:
    patience = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < patience
        time.sleep(0.2)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("nodes", "lost", "splits"),
    [
        pytest.param(3, 1, 60, marks=pytest.mark.full),
        pytest.param(8, 3, 240, marks=pytest.mark.slow),
    ],
)
def test_from_no_worker_to_all_replicas_and_back_with_nodes_lost(
    job: Callable[..., dict[str, Any]], tmp_path: Path, nodes: int, lost: int, splits: int
) -> None:
    config = prepare(tmp_path, job(), splits)
    with ExitStack() as stack:
        group = Group(nodes, cpus=2, gpus=1)
        ray = autoscaling(stack, tmp_path, f"gpu:{nodes}x2+1", gpu=group)
        most: list[int] = []

        def lose_some() -> None:
            done = tmp_path / "out" / "data"
            wait_for(lambda: len(ray.added()) == nodes and len(list(done.glob("*.parquet"))) > splits // 4)
            most.append(len(ray.added()))
            for node in random.Random(7).sample(ray.added(), lost):
                ray.lose(node)

        loser = threading.Thread(target=lose_some, daemon=True)
        loser.start()
        said = run(ray, config, rate=10.0)
        loser.join()
        assert "exit" not in said.splitlines()[-1], said[-3000:]
        assert f"starting splits={splits} replicas={nodes}" in said
        assert re.search(rf"waiting for nodes replicas=\d of {nodes} have a place", said)
        assert most == [nodes]
        rows = read_dataset(tmp_path / "out")
        assert sorted(rows.column("key").to_pylist()) == list(range(splits * ROWS_PER_SHARD))
        wait_for(lambda: ray.added() == [])


@pytest.mark.full
@pytest.mark.timeout(2400)
def test_a_group_that_never_comes_leaves_the_run_on_what_is_there(
    job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The manifests promise three nodes more than the autoscaler can make: a quota, or no spot capacity."""
    config = prepare(tmp_path, job(), 40)
    with ExitStack() as stack:
        ray = autoscaling(stack, tmp_path, "gpu:4x2+1", gpu=Group(1, cpus=2, gpus=1))
        said = run(ray, config, rate=8.0)
        assert "waiting for nodes replicas=1 of 4 have a place" in said, said
        assert re.search(r"rows +800", said), said[-3000:]
        [attempt] = (tmp_path / "out" / "ledger").glob("*.json")
        assert json.loads(attempt.read_text())["code"] == 0
