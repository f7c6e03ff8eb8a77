"""Tests that stalls and splits that kill are distinguished from slow splits and lost nodes."""

from collections.abc import Iterator

import pytest

from pipeline import telemetry
from pipeline.errors import CrashError, ExitCode
from pipeline.telemetry import liveness
from pipeline.telemetry.liveness import LivenessTracker, StagesStatus, StageStatus, WorkerProcess

HERE, THERE = WorkerProcess("n1", "10.0.0.1", 7), WorkerProcess("n2", "10.0.0.2", 8)


class Clock:
    """A clock that stands still unless a test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alive() -> set[str]:
    return {"n1", "n2"}


@pytest.fixture
def watched(clock: Clock, alive: set[str]) -> LivenessTracker:
    return LivenessTracker(lambda: alive, clock)


def test_who_does_not_leave_has_died(watched: LivenessTracker) -> None:
    assert watched.enter("s", "read", HERE) == 0
    assert watched.enter("s", "read", THERE) == 1
    assert watched.enter("s", "read", HERE) == 2
    assert watched.enter("other", "read", HERE) == 0
    assert watched.enter("s", "encode", HERE) == 0  # each stage counts its own tries


def test_whoever_leaves_has_not_died(watched: LivenessTracker) -> None:
    for _ in range(5):
        assert watched.enter("s", "read", HERE) == 0
        watched.leave("s", "read")


def test_a_lost_node_is_not_the_splits_fault(watched: LivenessTracker, alive: set[str]) -> None:
    watched.enter("s", "encode", THERE)
    alive.remove("n2")
    assert watched.enter("s", "encode", HERE) == 0
    assert watched.enter("s", "encode", HERE) == 1


def test_a_slow_split_is_no_silence(watched: LivenessTracker, clock: Clock) -> None:
    watched.enter("s", "encode", HERE)
    for _ in range(100):
        clock.now += 60
        watched.beat("s", "encode")
    assert watched.quiet_seconds() == 0
    clock.now += 61
    assert watched.quiet_seconds() == 61


def test_the_report_tells_who_is_at_what(watched: LivenessTracker, clock: Clock) -> None:
    watched.enter("a", "encode", HERE)
    clock.now += 5
    watched.enter("b", "read", THERE)
    clock.now += 5
    watched.beat("a", "encode")
    clock.now += 1
    assert watched.report() == [
        "read of b on 10.0.0.2, pid 8: 6 s, silent for 6 s",
        "encode of a on 10.0.0.1, pid 7: 11 s, silent for 1 s",
    ]
    watched.leave("a", "encode")
    assert len(watched.report()) == 1


class Local:
    """A sentry in the same process."""

    def __init__(self, watched: LivenessTracker) -> None:
        self.watched, self.beats = watched, 0

    def enter(self, split_id: str, stage: str) -> int:
        return self.watched.enter(split_id, stage, HERE)

    def leave(self, split_id: str, stage: str) -> None:
        self.watched.leave(split_id, stage)

    def beat(self, split_id: str, stage: str) -> None:
        self.beats += 1
        self.watched.beat(split_id, stage)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0)
    yield


def test_the_third_death_is_the_last(watched: LivenessTracker) -> None:
    sentry = Local(watched)
    for _ in range(3):
        watched.enter("s", "read", HERE)
    told = pytest.raises(CrashError, match=r"s \(read\): 3 processes died at this split")
    with told as error, liveness.working_on(sentry, "s", "read"):
        raise AssertionError("must not be tried")
    assert error.value.exit_code == ExitCode.INCOMPLETE


def test_signs_of_life_are_passed_on_while_the_work_lasts(watched: LivenessTracker, often: None) -> None:
    sentry = Local(watched)
    with liveness.working_on(sentry, "s", "read"):
        telemetry.heartbeat()
        telemetry.count_request("open", "s3://b/x")
        telemetry.count_read("s3", 10)
    telemetry.heartbeat()
    assert sentry.beats == 3
    assert watched.report() == []


def test_at_most_one_sign_a_second(watched: LivenessTracker) -> None:
    sentry = Local(watched)
    with liveness.working_on(sentry, "s", "read"):
        for _ in range(1000):
            telemetry.heartbeat()
    assert sentry.beats == 0


def test_an_error_is_no_death(watched: LivenessTracker) -> None:
    sentry = Local(watched)
    with pytest.raises(ValueError, match="bad"), liveness.working_on(sentry, "s", "read"):
        raise ValueError("bad")
    assert watched.enter("s", "read", HERE) == 0


def test_nobody_need_watch() -> None:
    with liveness.working_on(None, "s", "read"):
        telemetry.heartbeat()


def test_how_the_stages_stand(watched: LivenessTracker, clock: Clock) -> None:
    assert watched.standing() == StagesStatus(0, 0, {})
    watched.enter("a", "read", HERE)
    watched.enter("b", "read", THERE)
    clock.now += 4
    watched.leave("a", "read")
    watched.enter("a", "encode", HERE)
    clock.now += 1
    standing = watched.standing()
    assert (standing.age, standing.quiet) == (5, 1)
    assert standing.stages == {
        "read": StageStatus(age=5, at_work=1, most=2, places=2, busy_seconds=9, passed=1),
        "encode": StageStatus(age=1, at_work=1, most=1, places=1, busy_seconds=1, passed=0),
    }


def test_who_died_is_not_at_work(watched: LivenessTracker, clock: Clock) -> None:
    """A process that died counts as busy until its last sign of life."""
    watched.enter("a", "encode", HERE)
    clock.now += 3
    watched.beat("a", "encode")
    clock.now += 100
    watched.enter("a", "encode", THERE)
    assert watched.standing().stages["encode"] == StageStatus(103, 1, 1, 1, 3, 0)
