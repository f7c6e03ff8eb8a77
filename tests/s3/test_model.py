"""Tests a job whose model lies in a bucket, also on a cluster of two nodes that have no Hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from pipeline import cli, storage
from pipeline.errors import ExitCode
from pipeline.model.fetch import bucket as cache
from tests.clusters import Cluster, cluster
from tests.conftest import read_dataset, write_config
from tests.s3.proxy import FaultProxy
from tests.s3.server import READER, READER_SECRET

Job = Callable[..., dict[str, Any]]
NO_HUB = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:1"}


@pytest.fixture
def model(bucket: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the URL of a model in the bucket; this node has not cached it."""
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    for path in tiny.iterdir():
        storage.connect(bucket).put(f"{bucket}/models/tiny/{path.name}", path.read_bytes())
    return f"{bucket}/models/tiny/"


@pytest.mark.usefixtures("flow")
def test_a_job_is_the_same_with_its_model_in_a_bucket(
    model: str, credentials: str, job: Job, tmp_path: Path
) -> None:
    assert cli.main(["run", str(write_config(tmp_path / "here.yaml", job()))]) == ExitCode.DONE
    there = job(
        model={"name": model, "options": {"endpoint_url": credentials}},
        output={"path": str(tmp_path / "there"), "rows_per_shard": 10},
    )
    assert cli.main(["run", str(write_config(tmp_path / "there.yaml", there))]) == ExitCode.DONE
    assert read_dataset(tmp_path / "there").equals(read_dataset(tmp_path / "out"))
    digests = [
        json.loads((tmp_path / name / "dataset.json").read_text())["dataset_digest"]
        for name in ("out", "there")
    ]
    assert digests[0] == digests[1]


WRONG: dict[str, tuple[str, dict[str, str], str]] = {
    # the fault: what follows the bucket, the environment, the message
    "no folder": ("/models/none", {}, "/models/none: no file here"),
    "no bucket": ("-none/models/tiny", {}, "its bucket does not exist"),
    "no right": ("/models/tiny", {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "access denied"),
    "no weights": ("/models/bare", {}, "no model.safetensors here"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_in_one_line(
    what: str,
    model: str,
    bucket: str,
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, variables, message = WRONG[what]
    storage.connect(bucket).put(f"{bucket}/models/bare/config.json", (b'{"model_type": "albert"}'))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    storage._connect.cache_clear()
    config = write_config(tmp_path / "job.yaml", job(model={"name": f"{bucket}{path}"}))
    assert cli.main(["run", str(config)]) == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("exit 2: ")
    assert message in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_on_a_cluster_each_node_fetches_it_once(
    model: str, bucket: str, proxy: FaultProxy, job: Job, tmp_path: Path
) -> None:
    """The driver's node and two others; each has a cache of its own, and the last one's is damaged later."""
    nobody = {"AWS_ACCESS_KEY_ID": READER, "AWS_SECRET_ACCESS_KEY": READER_SECRET, "AWS_REGION": "us-east-1"}
    values = job(
        model={"name": model, "options": {"endpoint_url": proxy.url}},
        compute={"min_replicas": 2, "max_replicas": 2, "cpus_per_replica": 1, "watchdog_minutes": 0.5},
    )
    weights = f"GET /{bucket.removeprefix('s3://')}/models/tiny/model.safetensors"
    caches = [tmp_path / f"cache-{number}" for number in range(3)]
    variables = {**NO_HUB, **nobody, cache.FOLDER: str(caches[0])}
    with cluster(tmp_path / "log", head_cpus=0, environment=variables) as ray:
        for folder in caches[1:]:
            ray.environment[cache.FOLDER] = str(folder)
            ray.add_worker(4)
        said = submit(ray, write_config(tmp_path / "first.yaml", values))
        assert "reason  complete" in said, said
        assert proxy.asked[weights] == len(caches), proxy.asked
        assert sorted(read_dataset(tmp_path / "out").column("key").to_pylist()) == list(range(60))

        # A second job fetches nothing. It refuses a node whose files are no longer the driver's.
        [damaged] = [path for path in caches[2].iterdir() if path.is_dir()]
        tensors = load_file(damaged / "model.safetensors")
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, damaged / "model.safetensors")
        second = values | {"output": values["output"] | {"path": str(tmp_path / "second")}}
        said = submit(ray, write_config(tmp_path / "second.yaml", second))
        assert proxy.asked[weights] == len(caches), proxy.asked
        last = said.strip().splitlines()[-1]
        assert last.startswith("exit 2: "), said
        assert "this node has another checkpoint than the driver" in said
        assert f"{damaged}" in said
        assert "remove this folder from the node's cache, and run again" in said


def submit(ray: Cluster, config: Path) -> str:
    """Runs a job, and returns its output, whether it succeeds or not."""
    return ray.run(config.stem, f"python -m jobs.embed {config}")
