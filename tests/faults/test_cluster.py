"""Tests of a run on a cluster of one node, with splits that kill or hold their process."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.clusters import Cluster, cluster
from tests.conftest import read_dataset, write_config
from tests.faults.poison import HANG, KILL, SLOW, runtime

Job = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("ray") / "log") as running:
        yield running


def submit(ray: Cluster, config: Path) -> str:
    """Runs a job, and returns its output, whether it succeeds or not."""
    return ray.run(config.stem, f"python -m jobs.embed {config}", runtime())


def put(corpus: Path, row: int, text: str) -> None:
    """Puts a text into a row of the corpus's second file; splits have 10 rows."""
    path = corpus / "1.parquet"
    table = pq.read_table(path)
    changed = [
        text if number == row else each for number, each in enumerate(table.column("text").to_pylist())
    ]
    pq.write_table(table.set_column(1, "text", pa.array(changed)), path)


WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "cpus": ({"compute": {"cpus_per_replica": 2}}, "a reader, a replica and a writer do not fit at the"),
    "replicas": ({"compute": {"min_replicas": 5}}, "compute.min_replicas is more than fit (got 5, 1 fit"),
    "gpus": ({"compute": {"device": "cuda"}}, "compute.device is cuda, but no node has a GPU"),
    "store": ({"output": {"max_split_bytes": 10**9}}, "a node's object store does not hold the splits"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.full
def test_a_cluster_that_is_too_small_is_told_so_before_anything_starts(
    one_node: Cluster, job: Job, corpus: Path, tmp_path: Path, way: str
) -> None:
    """This checks each way to be too small; the node has two CPUs and an object store of 200 MB."""
    noise = random.Random(0).randbytes(5_000_000).hex()
    pq.write_table(pa.table({"key": [0], "text": [noise], "topic": ["t"]}), corpus / "large.parquet")
    sections, message = WAYS[way]
    said = submit(one_node, write_config(tmp_path / f"small-{way}.yaml", job(**sections)))
    assert said.strip().splitlines()[-1].startswith(f"exit 2: {message}"), said


@pytest.mark.timeout(600)
@pytest.mark.full
def test_a_split_that_kills_its_process_is_named_and_the_others_are_done(
    one_node: Cluster, job: Job, corpus: Path, tmp_path: Path
) -> None:
    put(corpus, 13, KILL)
    said = submit(one_node, write_config(tmp_path / "poison.yaml", job()))
    assert "3 processes died at this split" in said, said[-3000:]
    assert "exit 3: 1 of the source's files failed: docs/1.parquet" in said
    keys = read_dataset(tmp_path / "out").column("key").to_pylist()
    assert keys == [key for key in range(60) if not 30 <= key < 40]
    assert not (tmp_path / "out/data/_SUCCESS").exists()


LIMIT = {"watchdog_minutes": 0.2}
"""A limit of twelve seconds."""


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_slow_split_is_not_a_stall(one_node: Cluster, job: Job, corpus: Path, tmp_path: Path) -> None:
    """The limit is twelve seconds, and the split takes twenty-four."""
    put(corpus, 3, SLOW)
    said = submit(one_node, write_config(tmp_path / "slow.yaml", job(compute=LIMIT)))
    assert "reason  complete" in said, said


@pytest.mark.timeout(600)
@pytest.mark.full
def test_a_stall_is_told(one_node: Cluster, job: Job, corpus: Path, tmp_path: Path) -> None:
    put(corpus, 3, HANG)
    said = submit(one_node, write_config(tmp_path / "stalled.yaml", job(compute=LIMIT)))
    assert "stalled: read of" in said, said
    assert "exit 4: no micro-batch, read or write for" in said, said
    assert "stalled: free: CPU" in said
