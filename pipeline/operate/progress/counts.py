"""Computes how far a run is, how fast it is, and how long it will take.

Rates count work alone. Their clock starts before the first arrival, by as long as its own steps took, so that
neither Ray's start nor the loading of models counts. Copied shards and those from before do not count.
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
"""The least number of arrivals that a present rate is computed from, since large splits arrive rarely."""
STEPS = ("read", "tokenize", "encode", "write")
"""The steps whose seconds a shard record has."""


@dataclass(frozen=True, slots=True)
class RunTotal:
    """The work of a dataset, and how much of it was done before this run.

    amount: of all splits in `unit`: "rows" or "bytes" of the source if all its files are counted in the same
        unit, else "splits".
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
        """Returns the mean amount of a split."""
        return self.amount / self.splits if self.splits else 0.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Counts per second: in the window, and since work began."""

    now: float
    overall: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All figures of a run at a moment.

    done: splits, including those from before and those taken over.
    taken_over: splits whose shards this run did not make: copies, and a rival's.
    rows, tokens, rejects: of the splits that arrived in this run.
    eta: seconds; None if not known yet.  stages: empty until the first status arrives.
    split_seconds: the seconds that a split takes, by the steps of a record, as far as known.
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
        """Returns the fraction of the work that is done, 0 to 1."""
        return min(1.0, self.amount / self.total.amount) if self.total.amount else 1.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    time: float
    amount: float
    rows: int
    tokens: int
    steps: tuple[float, ...]


class Figures:
    """The counts of what has arrived.

    Args:
        attempt: this run's; it did not make records of other attempts.
        clock: returns seconds since any origin.
    """

    def __init__(self, total: RunTotal, attempt: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.attempt, self._clock = total, attempt, clock
        self.done = self.taken_over = self.failed = self.rows = self.tokens = self.rejects = 0
        self._started = clock()
        self._amount = self._failed_amount = 0.0
        self._work = _Work()
        self._stages = Stages()

    def add(self, arrived: ShardRecord | Failure) -> None:
        """Counts the result of one split."""
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
        """Takes in the status of the stages."""
        self._stages.stand(standing)

    def sums(self) -> dict[str, float]:
        """Returns what the run itself did, for its summary."""
        seconds = round(self._clock() - self._started, 3)
        return {"splits": self.done, "rows": self.rows, "tokens": self.tokens, "seconds": seconds}

    def moment(self) -> Snapshot:
        """Returns the present figures."""
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
    """The work that this run did itself, and its times."""

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
        # The window begins at the arrival before the first one in it.
        while len(self._window) > WINDOW_ARRIVALS and self._window[0].time < arrival.time - WINDOW_SECONDS:
            self._window_began = self._window.popleft().time

    def rate(self, now: float, what: str) -> float:
        """Returns the rate per second in the window. It falls only when the next arrival is late."""
        if not self._window:
            return 0.0
        gap, since = self._gap(now)
        seconds = gap * len(self._window) + max(0.0, since - gap)
        return _per(sum(getattr(each, what) for each in self._window), seconds)

    def seconds_for(self, amount: float, now: float) -> float | None:
        """Returns the seconds that an amount will take; work since the last arrival counts as done."""
        rate = self.rate(now, "amount")
        return max(0.0, amount / rate - min(self._gap(now))) if rate else None

    def split_seconds(self) -> dict[str, float]:
        """Returns the mean seconds of a split's steps in the window."""
        steps = [each.steps for each in self._window if each.steps]
        means = (sum(column) / len(steps) for column in zip(*steps, strict=True))
        return dict(zip(STEPS, means, strict=False))

    def _gap(self, now: float) -> tuple[float, float]:
        """Returns the mean seconds between two arrivals in the window, and those since the last arrival."""
        return (self.last - self._window_began) / len(self._window), now - self.last


def _amount_of(record: ShardRecord) -> int:
    return sum(int(piece["stop"] - piece["start"]) for piece in record.pieces)


def _per(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
