"""What a flow on Ray begins with, and how it ends where nobody shows life."""

from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from ray.data import DataContext

from pipeline import checkpoint, config, flow, plan, stages
from pipeline.dataset import ShardRecord
from pipeline.errors import ExitCode, StartError
from pipeline.flow import graph, watchdog
from pipeline.flow.feed import feed
from pipeline.recipe import Recipe
from pipeline.stages import Failure
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
    told = stages.Job(
        config=parsed, columns=made.columns, recipe=Recipe.of(model, parsed.model), revision=None,
        vector_digest="0" * 64, tokenizer_digest=model.tokenizer_digest, attempt="a",
    )  # fmt: skip
    arrived: list[ShardRecord | Failure] = []
    with pytest.raises(StartError, match="no replica can start.*another checkpoint than") as caught:
        arrived.extend(flow.run(made, told))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert len(arrived) == 2


def unstarted(process: str) -> Failure:
    return Failure("s", ("docs/a",), stages.START, ExitCode.RETRYABLE, "no mount", process)


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
