"""How far a run is, how fast, and how long it will take.

Rates are of work: their clock starts as long before the first arrival as its own steps took, so neither Ray's
start nor the loading of models counts; and what was there before, or was copied, is no work.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import pyarrow.compute as pc

from pipeline.dataset.record import Failure, ShardRecord
from pipeline.operate.progress.stages import WINDOW_SECONDS, StageLine, Stages
from pipeline.plan.plan import Plan, extent
from pipeline.telemetry.liveness import StagesStatus

WINDOW_ARRIVALS = 8
"""A rate of now is of the window's seconds, and of so many arrivals at least: large splits come rarely."""
STEPS = ("read", "tokenize", "encode", "write")
"""What a shard record tells the seconds of."""


@dataclass(frozen=True, slots=True)
class RunTotal:
    """What there is to do, and what of it was there before this run.

    amount: of all splits in `unit`: "rows" or "bytes" of the source where all its files are counted in one of
        them, else "splits".
    """

    splits: int
    before: int
    unit: str
    amount: int
    amount_before: int

    @classmethod
    def of(cls, whole: Plan, pending: Plan) -> Self:
        splits, left = len(whole.split_ids), len(pending.split_ids)
        units = pc.unique(whole.pending(()).pieces.column("unit")).to_pylist()
        if len(units) != 1:
            return cls(splits, splits - left, "splits", splits, splits - left)
        amount, amount_left = (extent(plan.pending(()).pieces) for plan in (whole, pending))
        return cls(splits, splits - left, units[0], amount, amount - amount_left)

    @property
    def mean(self) -> float:
        """The amount of a split."""
        return self.amount / self.splits if self.splits else 0.0


@dataclass(frozen=True, slots=True)
class Rate:
    """A second: in the window, and since work began."""

    now: float
    overall: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that there is to say at a moment.

    done: splits, those from before and those taken over among them.  taken_over: those whose shards this run
    did not make: copies, and a rival's.  rows, tokens, rejects: of what arrived in this run.
    eta: seconds; None where nothing can be said.  stages: empty before any is asked for.
    split_seconds: what a split takes, by the steps of a record, as far as known.
    """

    total: RunTotal
    done: int
    taken_over: int
    failed: int
    amount: float
    rows: int
    tokens: int
    rejects: int
    row_rate: Rate
    token_rate: Rate
    eta: float | None
    seconds: float
    stages: tuple[StageLine, ...]
    split_seconds: Mapping[str, float]

    @property
    def fraction(self) -> float:
        """How much of all is done, 0 to 1."""
        return min(1.0, self.amount / self.total.amount) if self.total.amount else 1.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    time: float
    amount: float
    rows: int
    tokens: int
    steps: tuple[float, ...]


class Figures:
    """Counts what arrives.

    Args:
        attempt: of this run; records of others were not made by it.
        clock: seconds, of any origin.
    """

    def __init__(self, total: RunTotal, attempt: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.attempt, self._clock = total, attempt, clock
        self.done = self.taken_over = self.failed = self.rows = self.tokens = self.rejects = 0
        self._started = clock()
        self._amount = self._failed_amount = 0.0
        self._work = _Work()
        self._stages = Stages()

    def add(self, arrived: ShardRecord | Failure) -> None:
        """Take in what became of one split."""
        if isinstance(arrived, Failure):
            self.failed += 1
            self._failed_amount += self.total.mean
            self._work.arrive(_Arrival(self._clock(), self.total.mean, 0, 0, ()))
            return
        amount = self.total.mean if self.total.unit == "splits" else _amount_of(arrived)
        self.done += 1
        self._amount += amount
        self.rows += arrived.rows
        self.tokens += arrived.tokens
        self.rejects += arrived.rejects
        if arrived.attempt != self.attempt:
            self.taken_over += 1
            return
        steps = tuple(getattr(arrived, f"{step}_seconds") for step in STEPS)
        self._work.arrive(_Arrival(self._clock(), amount, arrived.rows, arrived.tokens, steps))

    def stand(self, standing: StagesStatus) -> None:
        """Take in how the stages stand."""
        self._stages.stand(standing)

    def sums(self) -> dict[str, float]:
        """What the run itself did, for its summary."""
        seconds = round(self._clock() - self._started, 3)
        return {"splits": self.done, "rows": self.rows, "tokens": self.tokens, "seconds": seconds}

    def moment(self) -> Snapshot:
        """What there is to say now."""
        total, work = self.total, self._work
        now = work.last if self._finished() else self._clock()
        return Snapshot(
            total=total,
            done=total.before + self.done,
            taken_over=self.taken_over,
            failed=self.failed,
            amount=total.amount_before + self._amount,
            rows=self.rows,
            tokens=self.tokens,
            rejects=self.rejects,
            row_rate=Rate(work.rate(now, "rows"), _per(work.rows, now - work.began)),
            token_rate=Rate(work.rate(now, "tokens"), _per(work.tokens, now - work.began)),
            eta=self._eta(now),
            seconds=self._clock() - self._started,
            stages=() if self._finished() else self._stages.lines(self._to_do(), self.failed),
            split_seconds=work.split_seconds(),
        )

    def _to_do(self) -> int:
        return self.total.splits - self.total.before - self.taken_over

    def _finished(self) -> bool:
        return self.total.splits == self.total.before + self.done + self.failed

    def _eta(self, now: float) -> float | None:
        if self._finished():
            return 0.0
        left = self.total.amount - self.total.amount_before - self._amount - self._failed_amount
        return self._work.seconds_for(max(0.0, left), now)


class _Work:
    """What this run did itself, and when."""

    def __init__(self) -> None:
        self.rows = self.tokens = 0
        self.began = self.last = self._window_began = 0.0
        self._window: deque[_Arrival] = deque()

    def arrive(self, arrival: _Arrival) -> None:
        if not self._window:
            self.began = self._window_began = arrival.time - sum(arrival.steps)
        self.rows += arrival.rows
        self.tokens += arrival.tokens
        self.last = arrival.time
        self._window.append(arrival)
        # The window begins with the arrival before the first that it needs.
        while len(self._window) > WINDOW_ARRIVALS and self._window[0].time < arrival.time - WINDOW_SECONDS:
            self._window_began = self._window.popleft().time

    def rate(self, now: float, what: str) -> float:
        """So much a second, of the window; it falls only where the next arrival is late."""
        if not self._window:
            return 0.0
        gap, since = self._gap(now)
        seconds = gap * len(self._window) + max(0.0, since - gap)
        return _per(sum(getattr(each, what) for each in self._window), seconds)

    def seconds_for(self, amount: float, now: float) -> float | None:
        """How long an amount will take; what was done since the last arrival is on its way."""
        rate = self.rate(now, "amount")
        return max(0.0, amount / rate - min(self._gap(now))) if rate else None

    def split_seconds(self) -> dict[str, float]:
        """What the steps of a split took in the window, on average."""
        steps = [each.steps for each in self._window if each.steps]
        means = (sum(column) / len(steps) for column in zip(*steps, strict=True))
        return dict(zip(STEPS, means, strict=False))

    def _gap(self, now: float) -> tuple[float, float]:
        """Seconds between two arrivals of the window, on average; and since the last."""
        return (self.last - self._window_began) / len(self._window), now - self.last


def _amount_of(record: ShardRecord) -> int:
    return sum(int(piece["stop"] - piece["start"]) for piece in record.pieces)


def _per(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
