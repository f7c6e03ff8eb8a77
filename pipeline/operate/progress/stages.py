"""Derives from the status of the run's `LivenessTracker` how busy each stage is, and what it waits for."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.telemetry.liveness import NO_ACTIVITY, StagesStatus, StageStatus

STAGES = ("read", "encode", "write")
WINDOW_SECONDS = 30.0
BUSY = 0.9
"""The share of time at work from which on a stage waits for nothing."""
IDLE = 0.5
"""A stage that is busier than all others, but less than this, waits for Ray to bring it splits."""
WAITS_FOR = {
    "read": "waits for the readers",
    "encode": "waits for the encoder",
    "write": "waits for the writers",
}


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage at a moment.

    busy: share of its processes' time in the window, from the first split on; None if not known yet. A
        replica counts once it has had a split; readers and writers count as many as were at work at once.
    waits: what it waits for, or why it has nothing to do; empty while it is fully at work.
    """

    stage: str
    at_work: int
    processes: int
    busy: float | None
    waits: str


class Stages:
    """The statuses of the last seconds."""

    def __init__(self) -> None:
        self._looks: deque[StagesStatus] = deque()

    def stand(self, standing: StagesStatus) -> None:
        """Takes in a status."""
        if self._looks and standing.age < self._looks[-1].age:
            self._looks.clear()  # the watch was lost, and another one counts from zero
        self._looks.append(standing)
        while len(self._looks) > 2 and standing.age - self._looks[1].age >= WINDOW_SECONDS:
            self._looks.popleft()

    def lines(self, pending: int, failed: int) -> tuple[StageLine, ...]:
        """Returns a line for each stage of a run with `pending` splits to do, of which `failed` failed."""
        if not self._looks:
            return ()
        busy = {stage: self._busy(stage) for stage in STAGES}
        now = self._looks[-1].stages
        return tuple(
            StageLine(
                stage,
                now.get(stage, NO_ACTIVITY).at_work,
                _processes(stage, now.get(stage, NO_ACTIVITY)),
                busy[stage],
                _waits(stage, now, busy, pending - failed),
            )
            for stage in STAGES
        )

    def _busy(self, stage: str) -> float | None:
        first, last = self._looks[0], self._looks[-1]
        there = last.stages.get(stage, NO_ACTIVITY)
        could = min(last.age - first.age, there.age) * _processes(stage, there)
        if not could:
            return None
        spent = there.busy_seconds - first.stages.get(stage, NO_ACTIVITY).busy_seconds
        return min(1.0, max(0.0, spent / could))


def _processes(stage: str, there: StageStatus) -> int:
    return there.places if stage == "encode" else there.most


def _waits(stage: str, now: Mapping[str, StageStatus], busy: Mapping[str, float | None], splits: int) -> str:
    there = now.get(stage, NO_ACTIVITY)
    if not there.at_work and there.passed >= splits:
        return "nothing left"
    if not there.most:
        return _not_begun(stage, now)
    share = busy[stage]
    if share is None or share >= BUSY:
        return ""
    # Work flows through all stages: one that has time waits for the busiest one.
    others = {other: busy[other] or 0.0 for other in STAGES if other != stage}
    slowest = max(others, key=lambda other: others[other])
    if others[slowest] > share:
        return WAITS_FOR[slowest]
    if not now.get("encode", NO_ACTIVITY).most:
        return "waits for replicas to start"
    return "waits for Ray" if share < IDLE else ""


def _not_begun(stage: str, now: Mapping[str, StageStatus]) -> str:
    if stage == "encode" and now:
        return "starting replicas"
    return "starting" if stage != "write" else WAITS_FOR["encode"]
