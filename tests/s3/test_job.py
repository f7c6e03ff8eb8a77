"""Tests the main job on a real S3 server: exact results, even under faults, and early errors."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli, storage
from pipeline.config import sections
from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import committed
from pipeline.dataset.identity import Identity
from pipeline.errors import ExitCode, OtherDatasetError
from pipeline.model import checkpoint
from tests.conftest import read_dataset, write_config
from tests.s3.proxy import FaultProxy
from tests.s3.server import READER, READER_SECRET, SECRET
from tests.s3.under_faults import KINDS

Job = Callable[..., dict[str, Any]]
MARKS = {"lose": [], "all": [pytest.mark.full]}
Run = subprocess.CompletedProcess[str]


@pytest.fixture
def values(bucket: str, job: Job, corpus: Path) -> dict[str, Any]:
    """Returns a config from the bucket to the bucket, and writes the corpus there."""
    for path in corpus.glob("*.parquet"):
        storage.connect(bucket).put(f"{bucket}/corpus/{path.name}", path.read_bytes())
    source = job()["source"]["docs"] | {"path": f"{bucket}/corpus/*.parquet"}
    return job(source={"docs": source}, output={"path": f"{bucket}/out", "rows_per_shard": 10})


def embed(values: dict[str, Any], tmp_path: Path, **environment: str) -> Run:
    """Returns a function that runs the job in processes with S3's settings only in their environment."""
    path = write_config(tmp_path / "job.yaml", values)
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(path)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def embed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Run]]:
    """The job in this process, on the tests' Ray if it comes to that; of S3 the config tells the workers."""

    def run(values: dict[str, Any], **environment: str) -> Run:
        path = write_config(tmp_path / "job.yaml", values)
        capfd.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            storage._connect.cache_clear()
            code = cli.main(["run", str(path)])
        storage._connect.cache_clear()
        return Run(["run"], code, *capfd.readouterr())

    yield run
    storage._connect.cache_clear()


def at(url: str, values: dict[str, Any]) -> dict[str, Any]:
    """The config with the server's URL in it: the tests' Ray is older than the environment."""
    options = {"options": {"endpoint_url": url}}
    source = {name: section | options for name, section in values["source"].items()}
    return values | {"source": source, "output": values["output"] | options}


def rows_of(bucket: str) -> pa.Table:
    """Returns the rows of all shards, in the order of the source."""
    store, dataset = storage.connect(bucket), Dataset(f"{bucket}/out")
    shards = [pq.read_table(pa.BufferReader(store.read(info.path))) for info in dataset.shards().values()]
    return pa.concat_tables(shards).sort_by([("source_file", "ascending"), ("source_row", "ascending")])


def objects(bucket: str) -> dict[str, bytes]:
    store = storage.connect(bucket)
    return {path: store.read(f"s3://{path}") for path in store.filesystem.find(bucket)}


def assert_no_secret(done: Run, bucket: str, *secrets: str) -> None:
    """Checks that neither output nor files hold a secret, or anything signed with one."""
    said = done.stdout + done.stderr
    written = objects(bucket)
    for secret in (SECRET, READER_SECRET, *secrets):
        assert secret not in said
        assert not [path for path, data in written.items() if secret.encode() in data]
    assert not re.search(r"AWS4-HMAC|Signature=|[0-9a-f]{64}", said)


@pytest.mark.full
@pytest.mark.usefixtures("ray_cluster")
def test_the_same_as_on_files_and_resumed(
    bucket: str,
    values: dict[str, Any],
    job: Job,
    tmp_path: Path,
    embed_here: Callable[..., Run],
    credentials: str,
) -> None:
    assert embed_here(job()).returncode == ExitCode.DONE
    done = embed(values, tmp_path)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert_no_secret(done, bucket)
    rows = rows_of(bucket)
    assert rows.column("key").to_pylist() == list(range(60))
    # Compares vectors bit by bit, and also the hashes, the positions and the carried columns.
    assert rows.equals(read_dataset(tmp_path / "out"))

    # Runs again: nothing is left to do, so no object is written.
    store = storage.connect(bucket)
    before = store.filesystem.find(bucket, detail=True)
    there = at(credentials, values)
    done = embed_here(there)
    assert done.returncode == ExitCode.DONE, done.stderr
    store = storage.connect(bucket)  # one that has listed nothing yet
    assert store.filesystem.find(bucket, detail=True) == before

    # Some shards are removed: only these are made again.
    dataset = Dataset(f"{bucket}/out")
    victims = sorted(info.path for info in dataset.shards().values())[:2]
    for path in (dataset.layout.success, *victims):
        store.remove(path)
    kept = dataset.shards()
    done = embed_here(there)
    dataset = Dataset(f"{bucket}/out")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert committed(dataset).summary["run"]["splits"] == 2
    assert kept.items() <= dataset.shards().items()
    assert rows_of(bucket).equals(rows)


WRONG: dict[str, tuple[str, dict[str, str], str]] = {
    # the fault: the source, the environment, the message
    "secret": (
        "{bucket}/corpus", {"AWS_SECRET_ACCESS_KEY": "wrong-secret"},
        "{bucket}/out/data/_SUCCESS: access denied",
    ),
    "bucket": ("s3://nowhere/corpus", {}, "s3://nowhere/corpus: its bucket does not exist"),
    "file": ("{bucket}/corpus/none.parquet", {}, "{bucket}/corpus/none.parquet: "),
    "glob": ("{bucket}/corpus/*.pq", {}, "{bucket}/corpus/*.pq: no file here"),
    "rights": (
        "{bucket}/corpus", {"AWS_ACCESS_KEY_ID": READER, "AWS_SECRET_ACCESS_KEY": READER_SECRET},
        "{bucket}/out: access denied",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_in_one_line(
    what: str, bucket: str, values: dict[str, Any], embed_here: Callable[..., Run]
) -> None:
    source, environment, said = WRONG[what]
    values["source"]["docs"] |= {"path": source.format(bucket=bucket), "format": "parquet"}
    before = objects(bucket)
    done = embed_here(values, **environment)
    assert done.returncode == ExitCode.CONFIG, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"exit 2: {said.format(bucket=bucket)}")
    assert done.stderr.count(last.removeprefix("exit 2: ")) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert_no_secret(done, bucket, *(value for name, value in environment.items() if "SECRET" in name))
    assert objects(bucket) == before


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=MARKS.get(kind, [pytest.mark.slow])) for kind in KINDS],
)
def test_under_faults_every_row_arrives_and_retries_are_counted(
    kind: str, bucket: str, values: dict[str, Any], proxy: FaultProxy, embed_here: Callable[..., Run]
) -> None:
    # aiohttp itself repeats a request once after a lost answer: only two in a row reach our code.
    proxy.faults = {"lose": 0.4} if kind == "lose" else KINDS[kind]
    done = embed_here(at(proxy.url, values))
    assert done.returncode == ExitCode.DONE, done.stderr
    assert rows_of(bucket).column("key").to_pylist() == list(range(60))
    assert proxy.done[next(iter(KINDS[kind]))] > 5
    summary = committed(Dataset(f"{bucket}/out")).summary
    manifest = pq.read_table(pa.BufferReader(storage.connect(bucket).read(f"{bucket}/out/manifest.parquet")))
    assert summary["storage_retries"] == sum(manifest.column("storage_retries").to_pylist())
    if kind != "stall":
        assert summary["storage_retries"] + sum(summary["run"]["storage_retries"].values()) > 0


def test_of_two_configs_that_claim_an_output_one_has_it(bucket: str, job: Job) -> None:
    """Configs of one identity differ only outside of it, so they must adopt each other's claim."""

    def claimant(number: int) -> tuple[Identity, sections.Config]:
        told = job(
            output={"path": f"{bucket}/out"},
            model={"max_tokens": 64 + number % 2},
            compute={"batch_tokens": 100 + number},
        )
        parsed = parse_config(told)
        return Identity.of(parsed, checkpoint.resolve(parsed.model.name)), parsed

    claimants, start = [claimant(number) for number in range(20)], threading.Barrier(20)

    def claim(number: int) -> bool:
        dataset = Dataset(f"{bucket}/out")
        start.wait()
        try:
            dataset.claim(*claimants[number])
        except OtherDatasetError as error:
            assert "model.max_tokens" in str(error)
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        adopted = list(pool.map(claim, range(20)))
    assert adopted in ([True, False] * 10, [False, True] * 10)
    found = Dataset(f"{bucket}/out").identity()
    assert found is not None
    assert found.dataset_digest == claimants[adopted.index(True)][0].dataset_digest
