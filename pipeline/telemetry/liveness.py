"""Who works at what, and when anyone last showed life: finds stalls, and splits that kill their process.

`Watch` is plain state in one place; a `Sentry` is what a stage tells of itself, wherever the state lies.
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

MOST_CRASHES = 3
BEAT_SECONDS = 1.0
"""How often a process tells that it lives, at most."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: its node's id, and what a person would look for."""

    node: str
    address: str
    pid: int


@dataclass(slots=True)
class Work:
    """A split at a stage: by whom and since when; `beaten` is when it last showed life."""

    split_id: str
    stage: str
    place: Place
    since: float
    beaten: float


@dataclass(frozen=True, slots=True)
class StageStanding:
    """Of one stage.

    age: seconds since anyone first was at a split.  at_work: processes that are at one now.
    most: as many as ever were at the same time.  places: that were ever at one, and did not die there.
    busy_seconds: the work of all of them together.  passed: how often a split has gone through.
    """

    age: float
    at_work: int
    most: int
    places: int
    busy_seconds: float
    passed: int


NOBODY = StageStanding(0.0, 0, 0, 0, 0.0, 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the stages stand that anyone has been at, by their names.

    age: seconds since the watch began.  quiet: since anyone showed life.
    """

    age: float
    quiet: float
    stages: Mapping[str, StageStanding]


class Watch:
    """What all processes of a run are at.

    Args:
        alive: the ids of the nodes that are there; called only where a process has died.
        clock: seconds, of any origin.
    """

    def __init__(
        self, alive: Callable[[], Collection[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._alive, self._clock = alive, clock
        self._works: dict[tuple[str, str], Work] = {}
        self._crashes: dict[tuple[str, str], list[Place]] = {}
        self._began = self._heard = clock()
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._first: dict[str, float] = {}
        self._passed: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._places: defaultdict[str, set[Place]] = defaultdict(set)

    def enter(self, split_id: str, stage: str, place: Place) -> int:
        """A process takes up a split; how many died at it before, by its fault as far as one can tell.

        Whoever was at it and did not leave is dead. If its node is gone, too, the split is not to blame.
        """
        now, key = self._life(), (split_id, stage)
        if before := self._works.get(key):
            self._crashes.setdefault(key, []).append(before.place)
            self._end(before, before.beaten)
            self._places[stage].discard(before.place)
        self._works[key] = Work(split_id, stage, place, now, now)
        self._first.setdefault(stage, now)
        self._places[stage].add(place)
        self._most[stage] = max(self._most[stage], self._at_work()[stage])
        crashes = self._crashes.get(key)
        if not crashes:
            return 0
        nodes = self._alive()
        return sum(crash.node in nodes for crash in crashes)

    def leave(self, split_id: str, stage: str) -> None:
        """The split has gone through the stage, well or not."""
        now = self._life()
        if work := self._works.pop((split_id, stage), None):
            self._end(work, now)
            self._passed[stage] += 1

    def beat(self, split_id: str, stage: str) -> None:
        """A process lives."""
        now = self._life()
        if work := self._works.get((split_id, stage)):
            work.beaten = now

    def quiet_seconds(self) -> float:
        """Since anyone showed life."""
        return self._clock() - self._heard

    def standing(self) -> Standing:
        """How the stages stand."""
        now, at_work = self._clock(), self._at_work()
        busy = defaultdict(float, self._busy)
        for work in self._works.values():
            busy[work.stage] += now - work.since
        stages = {
            stage: StageStanding(
                age=now - first,
                at_work=at_work[stage],
                most=self._most[stage],
                places=len(self._places[stage]),
                busy_seconds=busy[stage],
                passed=self._passed[stage],
            )
            for stage, first in self._first.items()
        }
        return Standing(now - self._began, self.quiet_seconds(), stages)

    def report(self) -> list[str]:
        """A line for each split that somebody is at, the longest silent first."""
        now = self._clock()
        return [
            f"{work.stage} of {work.split_id} on {work.place.address}, pid {work.place.pid}: "
            f"{now - work.since:.0f} s, silent for {now - work.beaten:.0f} s"
            for work in sorted(self._works.values(), key=lambda work: work.beaten)
        ]

    def _at_work(self) -> Counter[str]:
        return Counter(work.stage for work in self._works.values())

    def _end(self, work: Work, when: float) -> None:
        self._busy[work.stage] += when - work.since

    def _life(self) -> float:
        self._heard = self._clock()
        return self._heard


class Sentry(Protocol):
    """What a stage tells of itself."""

    def enter(self, split_id: str, stage: str) -> int:
        """As `Watch.enter`."""

    def leave(self, split_id: str, stage: str) -> None:
        """As `Watch.leave`."""

    def beat(self, split_id: str, stage: str) -> None:
        """As `Watch.beat`; soon forgotten, if nobody listens."""


@contextmanager
def at(sentry: Sentry | None, split_id: str, stage: str) -> Iterator[None]:
    """Work at a split: signs of life go to the sentry, at most one a second.

    Raises:
        CrashError: too many processes died at it.
    """
    if sentry is None:
        yield
        return
    crashes = sentry.enter(split_id, stage)
    try:
        if crashes >= MOST_CRASHES:
            raise CrashError(
                f"{crashes} processes died at this split",
                f"{split_id} ({stage})",
                hint="a native crash, a failing device or too little memory: see the nodes' logs",
            )
        with telemetry.signs_of_life(_Rare(lambda: sentry.beat(split_id, stage))):
            yield
    finally:
        sentry.leave(split_id, stage)


@dataclass(slots=True)
class _Rare:
    """Calls through, but not too often."""

    call: Callable[[], None]
    last: float = field(default_factory=time.monotonic)

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.last >= BEAT_SECONDS:
            self.last = now
            self.call()
