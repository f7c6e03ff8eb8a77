"""Tracks which process works at which split, and finds stalls and splits that kill their process.

A `LivenessTracker` is plain state in one place. A stage reports to a `Heartbeat`, wherever that state lies.
Nothing here knows Ray.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pipeline import telemetry
from pipeline.errors import CrashError

MAX_CRASHES = 3
BEAT_SECONDS = 4.0
"""The least time between two signs of life that a process sends. A call costs Ray 0.8 ms: at one a second,
the tracker of a thousand replicas would need a core and a half."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """The place where a process runs: its node's id, and the address and pid that a person would look for."""

    node: str
    address: str
    pid: int


@dataclass(slots=True)
class OngoingWork:
    """A process's work at a split in a stage; `beaten` is the time of its last sign of life."""

    split_id: str
    stage: str
    place: WorkerProcess
    since: float
    beaten: float


@dataclass(frozen=True, slots=True)
class StageStatus:
    """The progress of one stage.

    age: seconds since a process first took up a split.  at_work: processes that work at a split now.
    most: the most processes that worked at the same time.  places: processes that ever worked, and did not
    die. busy_seconds: the work of all processes together.  passed: how often a split has gone through.
    """

    age: float
    at_work: int
    most: int
    places: int
    busy_seconds: float
    passed: int


NO_ACTIVITY = StageStatus(0.0, 0, 0, 0, 0.0, 0)


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of a run.

    placed: those for which the cluster has a place.  wanted: those that the run could use now.
    """

    placed: int = 0
    wanted: int = 0


@dataclass(frozen=True, slots=True)
class StagesStatus:
    """The progress of all stages that have started, by their names.

    age: seconds since the watch began.  quiet: seconds since the last sign of life.
    """

    age: float
    quiet: float
    stages: Mapping[str, StageStatus]
    replicas: Replicas = Replicas()


class LivenessTracker:
    """The work of all processes of a run.

    Args:
        alive: returns the ids of the nodes that are alive; called only if a process has died.
        clock: returns seconds since any fixed time.
    """

    def __init__(
        self, alive: Callable[[], Collection[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._alive, self._clock = alive, clock
        self._works: dict[tuple[str, str], OngoingWork] = {}
        self._crashes: dict[tuple[str, str], list[WorkerProcess]] = {}
        self._began = self._heard = clock()
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._first: dict[str, float] = {}
        self._passed: Counter[str] = Counter()
        self._at_work: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._places: defaultdict[str, set[WorkerProcess]] = defaultdict(set)

    def enter(self, split_id: str, stage: str, place: WorkerProcess) -> int:
        """Notes that a process takes up a split; returns how many processes the split seems to have killed.

        A process that took up the split before and did not leave it is dead. If its node is gone, too, the
        split is not to blame.
        """
        now, key = self._life(), (split_id, stage)
        if before := self._works.get(key):
            self._crashes.setdefault(key, []).append(before.place)
            self._end(before, before.beaten)
            self._places[stage].discard(before.place)
        self._works[key] = OngoingWork(split_id, stage, place, now, now)
        self._at_work[stage] += 1
        self._first.setdefault(stage, now)
        self._places[stage].add(place)
        self._most[stage] = max(self._most[stage], self._at_work[stage])
        crashes = self._crashes.get(key)
        if not crashes:
            return 0
        nodes = self._alive()
        return sum(crash.node in nodes for crash in crashes)

    def leave(self, split_id: str, stage: str) -> None:
        """Notes that the split has gone through the stage, successfully or not."""
        now = self._life()
        if work := self._works.pop((split_id, stage), None):
            self._end(work, now)
            self._passed[stage] += 1

    def beat(self, split_id: str, stage: str) -> None:
        """Notes a sign of life."""
        now = self._life()
        if work := self._works.get((split_id, stage)):
            work.beaten = now

    def quiet_seconds(self) -> float:
        """Returns the seconds since the last sign of life."""
        return self._clock() - self._heard

    def standing(self) -> StagesStatus:
        """Returns the progress of all stages."""
        now = self._clock()
        busy = defaultdict(float, self._busy)
        for work in self._works.values():
            busy[work.stage] += now - work.since
        stages = {
            stage: StageStatus(
                age=now - first,
                at_work=self._at_work[stage],
                most=self._most[stage],
                places=len(self._places[stage]),
                busy_seconds=busy[stage],
                passed=self._passed[stage],
            )
            for stage, first in self._first.items()
        }
        return StagesStatus(now - self._began, self.quiet_seconds(), stages)

    def report(self) -> list[str]:
        """Returns a line for each split in work; the one that has been silent longest comes first."""
        now = self._clock()
        return [
            f"{work.stage} of {work.split_id} on {work.place.address}, pid {work.place.pid}: "
            f"{now - work.since:.0f} s, silent for {now - work.beaten:.0f} s"
            for work in sorted(self._works.values(), key=lambda work: work.beaten)
        ]

    def _end(self, work: OngoingWork, when: float) -> None:
        self._at_work[work.stage] -= 1
        self._busy[work.stage] += when - work.since

    def _life(self) -> float:
        self._heard = self._clock()
        return self._heard


class Heartbeat(Protocol):
    """The receiver of a stage's reports about itself."""

    def enter(self, split_id: str, stage: str) -> int:
        """Reports to `LivenessTracker.enter`."""

    def leave(self, split_id: str, stage: str) -> None:
        """Reports to `LivenessTracker.leave`."""

    def beat(self, split_id: str, stage: str) -> None:
        """Reports to `LivenessTracker.beat`. A sign of life that does not arrive is lost."""


@contextmanager
def working_on(sentry: Heartbeat | None, split_id: str, stage: str) -> Iterator[None]:
    """Reports work at a split to the sentry, with a sign of life every few seconds.

    Raises:
        CrashError: too many processes died at the split.
    """
    if sentry is None:
        yield
        return
    crashes = sentry.enter(split_id, stage)
    try:
        if crashes >= MAX_CRASHES:
            raise CrashError(
                f"{crashes} processes died at this split",
                f"{split_id} ({stage})",
                hint="a native crash, a failing device or too little memory: see the nodes' logs",
            )
        with telemetry.on_heartbeat(_Throttled(lambda: sentry.beat(split_id, stage))):
            yield
    finally:
        sentry.leave(split_id, stage)


@dataclass(slots=True)
class _Throttled:
    """Calls a function, but at most once per `BEAT_SECONDS`."""

    call: Callable[[], None]
    last: float = field(default_factory=time.monotonic)

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.last >= BEAT_SECONDS:
            self.last = now
            self.call()
