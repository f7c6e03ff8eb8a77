"""Checks that an output that some node does not see is refused before anything is written."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.location import Options
from pipeline.embed.on_ray import shared_storage
from pipeline.errors import ExitCode, ResourceError
from tests.clusters import token, without_ray
from tests.conftest import read_dataset, write_config

Job = Callable[..., dict[str, Any]]
TWO_NODES = """
import json, os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 200_000_000})
cluster.add_node(num_cpus=1, object_store_memory=200_000_000)
os.environ["RAY_ADDRESS"] = cluster.address
import ray
from pipeline import cli
from pipeline.embed.on_ray import shared_storage
probed, original = [], shared_storage.probe
def seen(root, options, nodes):
    probed.append([node["NodeID"] for node in nodes])
    original(root, options, nodes)
shared_storage.probe = seen
code = cli.main(["run", sys.argv[1], "--quiet"])
print(json.dumps([code, probed]))
cluster.shutdown()
"""


def nodes() -> list[dict[str, Any]]:
    import ray

    [node] = ray.nodes()
    return [node, node | {"NodeManagerAddress": "another-node"}]


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_that_every_node_sees_passes_and_is_left_as_it_was(tmp_path: Path) -> None:
    shared_storage.probe(f"{tmp_path}/out", Options(), nodes())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_that_does_not_see_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes on one machine share its file system, so the task checks another folder."""
    monkeypatch.setattr(shared_storage, "PROBE_SECONDS", 0.0)
    look = shared_storage._look

    def elsewhere(path: str, *rest: Any) -> str:
        return look(path.replace("/out/", "/not-mounted/"), *rest)

    monkeypatch.setattr(shared_storage, "_look", elsewhere)
    with pytest.raises(ResourceError, match="/out: a node does not see this folder") as raised:
        shared_storage.probe(f"{tmp_path}/out", Options(), nodes()[1:])
    assert "got another-node: " in str(raised.value)
    assert "not-mounted" in str(raised.value)
    assert "mount the same storage there" in str(raised.value)
    assert raised.value.exit_code == ExitCode.CONFIG
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = {"NodeID": "e" * 56, "NodeManagerAddress": "lost-node"}
    with pytest.raises(ResourceError, match="got lost-node: it did not answer"):
        shared_storage.probe(f"{tmp_path}/out", Options(), [*nodes(), gone])
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("ray_cluster")
def test_one_node_and_urls_are_not_probed(tmp_path: Path) -> None:
    shared_storage.refuse_private_output(f"{tmp_path}/out", Options())
    shared_storage.refuse_private_output("s3://nowhere/out", Options())
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_a_job_on_two_nodes_is_probed_on_both(job: Job, tmp_path: Path) -> None:
    config = write_config(tmp_path / "job.yaml", job())
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, str(config)],
        capture_output=True, text=True, check=False, env=without_ray() | token(),
    )  # fmt: skip
    code, probed = json.loads(done.stdout.splitlines()[-1])
    assert code == ExitCode.DONE, done.stderr
    assert [len(set(asked)) for asked in probed] == [2]
    assert read_dataset(tmp_path / "out").column("key").to_pylist() == list(range(60))
