"""What a flow on Ray begins with, and how it ends where nobody shows life."""

from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from ray.data import DataContext

from pipeline import checkpoint, config, plan
from pipeline.flow import watchdog
from pipeline.flow.feed import feed

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


def test_a_stall_is_told_though_the_cluster_can_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off() -> list[str]:
        raise IncompleteRead(b"")

    monkeypatch.setattr(watchdog, "_state", broken_off)
    told = watchdog._told(None)
    assert ["AttributeError" in told[0], "IncompleteRead" in told[1]] == [True, True]
