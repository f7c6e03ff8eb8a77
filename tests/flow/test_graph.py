"""What a flow on Ray begins with, and how it ends where nobody shows life."""

import signal
import subprocess
import sys
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.data import DataContext

from pipeline import checkpoint, config, flow, plan, telemetry
from pipeline.dataset import ShardRecord
from pipeline.errors import ExitCode, StartError
from pipeline.flow import graph, watchdog
from pipeline.flow.feed import feed
from pipeline.job import START, Failure
from pipeline.job import Job as Told
from pipeline.recipe import Recipe
from tests import records

Job = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_flow_has_our_settings_from_its_beginning(
    job: Job, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset of Ray's keeps those that stand when it is begun; what is set later is for the next one."""
    context = DataContext.get_current()
    monkeypatch.setattr(context, "target_max_block_size", 128 << 20)
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 1800)
    fed = feed(plan.make(config.parse(job()), checkpoint.resolve(str(tiny)), "digest"), 1 << 20)
    assert fed.context.target_max_block_size == 1 << 20
    assert fed.context.execution_no_progress_timeout_s == -1


def test_a_run_whose_replicas_can_not_start_ends_before_all_splits_have_failed(job: Job, tiny: Path) -> None:
    """Here because the node's checkpoint is another than the driver's."""
    parsed = config.parse(job(compute={"watchdog_minutes": 0.5}))
    model = checkpoint.resolve(str(tiny))
    made = plan.make(parsed, model, "digest")
    told = Told(
        config=parsed, columns=made.columns, recipe=Recipe.of(model, parsed.model), revision=None,
        vector_digest="0" * 64, tokenizer_digest=model.tokenizer_digest, attempt="a",
    )  # fmt: skip
    arrived: list[ShardRecord | Failure] = []
    with pytest.raises(StartError, match="no replica can start.*another checkpoint than") as caught:
        arrived.extend(flow.run(made, told))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert len(arrived) == 2


def test_what_a_worker_warns_of_is_in_its_log() -> None:
    """Nobody sets up a log there; its standard error is the file that Ray keeps."""

    @ray.remote
    def warned() -> Path:
        telemetry.warn("out of memory", tokens=4096)
        return Path("/proc/self/fd/2").readlink()

    assert "out of memory tokens=4096\n" in ray.get(warned.remote()).read_text()


HANGING = """
import atexit, time
from pipeline.flow import graph
atexit.register(time.sleep, 600)  # begins later than what is registered after it
graph.EXIT_SECONDS = 1
graph.Encode._start = lambda self: None
graph.Encode(None, None)
"""


def test_a_replica_whose_exit_hangs_gives_its_device_back() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], check=False, timeout=60)
    assert done.returncode == -signal.SIGALRM


def unstarted(process: str) -> Failure:
    return Failure("s", ("docs/a",), START, ExitCode.RETRYABLE, "no mount", process)


def test_a_run_goes_on_while_one_replica_may_yet_work() -> None:
    """It has been given a split, or has made a shard; the other one fails what it takes."""
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


def test_a_stall_is_told_though_the_cluster_can_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off() -> list[str]:
        raise IncompleteRead(b"")

    monkeypatch.setattr(watchdog, "_state", broken_off)
    told = watchdog._told(None)
    assert ["AttributeError" in told[0], "IncompleteRead" in told[1]] == [True, True]
