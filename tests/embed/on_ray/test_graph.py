"""Tests the settings of a flow on Ray, and how it ends if no process works."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext
from ray.exceptions import TaskCancelledError

from pipeline import cli, telemetry
from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import START, Failure, ShardRecord
from pipeline.driver import run
from pipeline.embed import on_ray
from pipeline.embed.job import Job as Told
from pipeline.embed.on_ray import graph, watchdog
from pipeline.embed.on_ray.feed import feed
from pipeline.embed.row import run_stage
from pipeline.errors import ExitCode, ModelError, OutputError, StartError
from pipeline.model import checkpoint
from pipeline.model.check import usable_checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.plan.make import make_plan
from tests import records
from tests.conftest import make_checkpoint, write_config
from tests.embed.test_encode import broken_weights

Job = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_flow_has_our_settings_from_its_beginning(
    job: Job, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset of Ray keeps the settings at its creation; later ones are for the next dataset."""
    context = DataContext.get_current()
    monkeypatch.setattr(context, "target_max_block_size", 128 << 20)
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 1800)
    fed = feed(make_plan(parse_config(job()), checkpoint.resolve(str(tiny)), "digest"), 1 << 20)
    assert fed.context.target_max_block_size == 1 << 20
    assert fed.context.execution_no_progress_timeout_s == -1


@pytest.mark.full
def test_a_run_whose_replicas_can_not_start_ends_before_all_splits_have_failed(job: Job, tiny: Path) -> None:
    """They can't start because the node has another checkpoint than the driver."""
    parsed = parse_config(job(compute={"watchdog_minutes": 0.5}))
    model = checkpoint.resolve(str(tiny))
    made = make_plan(parsed, model, "digest")
    told = Told(
        config=parsed, columns=made.columns, recipe=EmbeddingSpec.of(model, parsed.model),
        outputs=Identity.of(parsed, model).outputs, revision=None,
        vector_digest="0" * 64, tokenizer_digest=model.tokenizer_digest, attempt="a",
    )  # fmt: skip
    arrived: list[ShardRecord | Failure] = []
    with pytest.raises(StartError, match="no replica can start.*another checkpoint than") as caught:
        arrived.extend(on_ray.run(made, told))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert len(arrived) == 2


def test_what_a_worker_warns_of_is_in_its_log() -> None:
    """No log is set up there; its standard error is the file that Ray keeps."""

    @ray.remote
    def warned() -> Path:
        telemetry.warn("out of memory", tokens=4096)
        return Path("/proc/self/fd/2").readlink()

    assert "out of memory tokens=4096\n" in ray.get(warned.remote()).read_text()


HANGING = """
import atexit, time
from pipeline.embed.on_ray import graph
atexit.register(time.sleep, 600)  # runs after all that is registered later
graph.EXIT_SECONDS = 1
graph.RayEncode._start = lambda self: None
graph.RayEncode(None, None)
"""


def test_a_replica_whose_exit_hangs_gives_its_device_back() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], check=False, timeout=60)
    assert done.returncode == -signal.SIGALRM


def unstarted(process: str) -> Failure:
    return Failure("s", ("docs/a",), START, ExitCode.RETRYABLE, "no mount", process)


def test_a_run_goes_on_while_one_replica_may_yet_work() -> None:
    """One replica has got a split, or has made a shard; the other one fails each split that it takes."""
    starts = graph._Starts()
    for _ in range(10):
        starts.add(unstarted("a 1"), 2)
    starts.add(records.record("t", rows=1), 2)
    for _ in range(10):
        starts.add(unstarted("a 1"), 1)


def test_a_run_ends_by_the_cause_when_each_of_its_replicas_has_failed() -> None:
    starts = graph._Starts()
    starts.add(unstarted("a 1"), 2)
    starts.add(unstarted("a 1"), 2)
    with pytest.raises(StartError, match="no replica can start.*no mount") as caught:
        starts.add(unstarted("b 2"), 2)
    assert caught.value.exit_code == ExitCode.RETRYABLE


def not_finite(process: str) -> Failure:
    return Failure("s", ("docs/a",), "encode", ExitCode.RETRYABLE, "8 of 8", process, "NonFiniteError")


def test_a_checkpoint_of_which_no_replica_gets_a_vector_ends_the_run() -> None:
    starts = graph._Starts()
    starts.add(not_finite("a 1"), 2)
    starts.add(not_finite("a 1"), 2)
    with pytest.raises(ModelError, match="no replica gets finite vectors.*8 of 8.*damaged") as caught:
        starts.add(not_finite("b 2"), 2)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_one_device_that_gives_none_does_not() -> None:
    starts = graph._Starts()
    starts.add(records.record("t", rows=1), 2)
    for _ in range(10):
        starts.add(not_finite("a 1"), 1)


@pytest.mark.full
def test_broken_weights_end_a_run_early(job: Job, tmp_path: Path) -> None:
    """Runs on real Ray: each vector of the checkpoint is NaN."""
    model = broken_weights(make_checkpoint(tmp_path / "model"))
    values = job(model={"name": str(model)})
    with pytest.raises(ModelError, match="no replica gets finite vectors of this checkpoint"):
        run.run(parse_config(values), quiet=True)
    assert not (tmp_path / "out/data").exists()


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def unwritten(code: ExitCode = ExitCode.RETRYABLE, kind: str = "StorageError") -> Failure:
    return Failure("s", ("docs/a",), "write", code, "no space left", "a 1", kind)


@pytest.mark.parametrize("code", [ExitCode.CONFIG, ExitCode.RETRYABLE])
def test_a_run_that_can_not_write_for_a_minute_ends_by_the_cause(code: ExitCode) -> None:
    clock = Clock()
    writes = graph._Writes(clock)
    for _ in range(20):
        writes.add(unwritten(code))
    clock.now = 61
    with pytest.raises(OutputError, match=r"the last 21 shards .* for 1\.0 minutes.*no space left") as caught:
        writes.add(unwritten(code))
    assert caught.value.exit_code == code


def test_a_shard_that_is_written_begins_the_count_anew() -> None:
    clock = Clock()
    writes = graph._Writes(clock)
    for second in range(0, 600, 20):
        clock.now = second
        writes.add(records.record("t", rows=1) if second % 60 == 0 else unwritten())


def test_few_failed_writes_and_failures_of_another_kind_do_not_end_a_run() -> None:
    clock = Clock()
    writes = graph._Writes(clock)
    for _ in range(graph.MAX_FAILED_WRITES - 1):
        clock.now += 1000
        writes.add(unwritten())
    for _ in range(10):
        clock.now += 1000
        writes.add(unwritten(kind="NonFiniteError"))
        writes.add(unwritten(ExitCode.BUG, "TypeError"))
        writes.add(not_finite("a 1"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mounts a file system of a few megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.full
def test_a_run_whose_disk_fills_up_ends_before_all_is_embedded(
    job: Job, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graph, "WRITE_SECONDS", 0)
    values = job(output={"path": str(small_disk / "out"), "rows_per_shard": 1})
    parsed = parse_config(values)
    model = usable_checkpoint(parsed)
    run.frozen_plan(parsed, Dataset.of(parsed), Identity.of(parsed, model), model)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - (100 << 10)))  # room for some shards
    assert cli.main(["run", str(write_config(small_disk.parent / "job.yaml", values))]) == ExitCode.RETRYABLE
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert re.match(r"exit 4: the last \d+ shards could not be written, for \d+\.\d minutes", last), said
    assert "No space left on device" in last
    assert list((small_disk / "out/data").iterdir())
    assert said.count("split failed") < 30

    (small_disk / "filler").unlink()
    assert cli.main(["run", str(small_disk.parent / "job.yaml"), "--quiet"]) == ExitCode.DONE


def test_a_task_that_is_cancelled_within_a_stage_is_cancelled(tmp_path: Path) -> None:
    """The boundary turns every error into data, but must not do so with this one."""
    begun = tmp_path / "begun"

    def work(*_: object) -> pa.Table:
        begun.touch()
        for _ in range(6000):
            time.sleep(0.1)
        raise AssertionError("nobody came")

    @ray.remote(max_retries=0)
    def task() -> pa.Table:
        return run_stage("read", "s", [], work, None)

    running = task.remote()
    while not begun.exists():
        time.sleep(0.05)
    ray.cancel(running)
    with pytest.raises(TaskCancelledError):
        ray.get(running, timeout=120)


def test_a_stall_is_told_though_the_cluster_can_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off() -> list[str]:
        raise IncompleteRead(b"")

    monkeypatch.setattr(watchdog, "_state", broken_off)
    told = watchdog._told(None)
    assert ["AttributeError" in told[0], "IncompleteRead" in told[1]] == [True, True]
