"""Derives the state of a dataset from its files alone, whether its run goes on or died.

Only the storage is asked, so what a process does between two shards is not known, and not claimed: an attempt
without an ending shows signs of life, or has shown none for some time.

Cost: two or three listings, the ledger, and the footers of shards that the ledger does not have yet (those of
a minute while a run goes on); for a complete dataset only the manifest.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.dataset.attempts import Attempt, failed_files
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.summary import labels, reject_reasons
from pipeline.errors import ExitCode

VERSION = 1
"""The version of what `status --json` prints: it rises if a field is removed or means something else."""
QUIET_MINUTES = 5.0
"""Minutes without a sign of life after which a run is called silent; most splits take about a minute."""
RECENT_MINUTES = 10.0
FIGURES = "rows", "rejects", "tokens"


@dataclass(frozen=True)
class Rate:
    """The work of the newest attempt in the last minutes before its last shard."""

    seconds: float
    splits: int
    rows: int

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def splits_per_minute(self) -> float:
        return 60 * self.splits / self.seconds


@dataclass(frozen=True)
class Standing:
    """State and figures of a dataset.

    state: "not started"; "planned" (no attempt yet); "running" (an attempt without an ending, with a sign
        of life within `QUIET_MINUTES`); "silent" (without such a sign); "stopped" (the last attempt ended);
        "complete".
    failed_files: according to the plan, the shards and the last attempt's ending.
    last_shard, last_sign: their times, according to writers or storage; None if there are none.
    attempts: oldest first, as each recorded itself; one without a `code` has no ending.
    """

    output: str
    state: str
    now: datetime.datetime
    splits: int = 0
    done: int = 0
    figures: Mapping[str, int] | None = None
    reject_reasons: Mapping[str, int] | None = None
    labels: Mapping[str, Mapping[str, int]] | None = None
    failed_files: Mapping[str, str] | None = None
    rate: Rate | None = None
    last_shard: datetime.datetime | None = None
    last_sign: datetime.datetime | None = None
    attempts: Sequence[Attempt] = ()

    @property
    def pending(self) -> int:
        return self.splits - self.done

    @property
    def replicas(self) -> Mapping[str, Any] | None:
        """Returns how many replicas of the newest attempt have a place; None if none waits for a node."""
        told = self.attempts[-1].get("replicas") if self.attempts else None
        return told if told and told["placed"] < told["wanted"] else None

    @property
    def silent_seconds(self) -> float | None:
        """Returns the seconds since the last sign of life, by this machine's clock."""
        return None if self.last_sign is None else max(0.0, (self.now - self.last_sign).total_seconds())

    @property
    def eta_seconds(self) -> float | None:
        """Returns the seconds that a running attempt still takes at its present rate; else None."""
        if self.state != "running" or self.rate is None:
            return None
        return self.pending / self.rate.splits * self.rate.seconds

    @property
    def code(self) -> ExitCode:
        """Returns the state as an exit code: that of the last attempt if it ended, and is to be believed."""
        if self.state in ("complete", "running"):
            return ExitCode.DONE if self.state == "complete" else ExitCode.RUNNING
        ended = self.attempts[-1]["code"] if self.state == "stopped" else ExitCode.RETRYABLE
        believed = ended in set(ExitCode) - {ExitCode.DONE, ExitCode.RUNNING}
        return ExitCode(ended) if believed else ExitCode.RETRYABLE

    def fields(self) -> dict[str, Any]:
        """Returns everything by stable names (docs/status.schema.json); times in ISO 8601, UTC."""
        return {
            "format_version": VERSION,
            "output": self.output,
            "state": self.state,
            "splits": self.splits,
            "done": self.done,
            "pending": self.pending,
            **{name: (self.figures or {}).get(name, 0) for name in FIGURES},
            "reject_reasons": dict(self.reject_reasons or {}),
            "labels": {name: dict(counted) for name, counted in (self.labels or {}).items()},
            "failed_files": dict(self.failed_files or {}),
            "rows_per_second": self.rate and _rounded(self.rate.rows_per_second),
            "splits_per_minute": self.rate and _rounded(self.rate.splits_per_minute),
            "rate_seconds": self.rate and _rounded(self.rate.seconds),
            "eta_seconds": _rounded(self.eta_seconds),
            "last_shard": _iso(self.last_shard),
            "last_sign": _iso(self.last_sign),
            "silent_seconds": _rounded(self.silent_seconds),
            "attempts": [
                {name: value for name, value in attempt.items() if name != "summary"}
                for attempt in self.attempts
            ],
        }


def standing(dataset: Dataset, now: datetime.datetime | None = None) -> Standing:
    """Returns the state and the figures of a dataset.

    Args:
        now: a time with a time zone; default: the clock's.

    Raises:
        OtherDatasetError: the dataset has another version of the format, or holds a file that is not a shard.
        StorageError: storage failed.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    plan = dataset.plan() if dataset.identity() else None
    if plan is None:
        return Standing(dataset.layout.root, "not started", now)
    shards, complete = dataset.shards(), dataset.complete()
    records = dataset.manifest() if complete else dataset.records(shards)
    ledger = dataset.storage.list_files(dataset.layout.ledger)
    attempts = dataset.attempts(ledger)
    newest = attempts[-1] if attempts else None
    signs = [info.changed for info in (*shards.values(), *ledger.values()) if info.changed]
    sign = max(signs, default=None)
    return Standing(
        output=dataset.layout.root,
        state="complete" if complete else _state(newest, sign, now),
        now=now,
        splits=len(plan.split_ids),
        done=len(shards),
        figures={name: schema.total(records, name) for name in FIGURES},
        reject_reasons=reject_reasons(records),
        labels=labels(records),
        failed_files=failed_files(plan, records, attempts[-1:]),
        rate=_rate(records, newest) if newest else None,
        last_shard=_moment(pc.max(records.column("written_at")).as_py()),
        last_sign=sign,
        attempts=attempts,
    )


def _state(newest: Attempt | None, sign: datetime.datetime | None, now: datetime.datetime) -> str:
    if newest is None:
        return "planned"
    if "code" in newest:
        return "stopped"
    alive = sign is not None and now - sign <= datetime.timedelta(minutes=QUIET_MINUTES)
    return "running" if alive else "silent"


def _rate(records: pa.Table, newest: Attempt) -> Rate | None:
    """Returns the rate at which the newest attempt made shards; copied ones have another attempt's name."""
    ours = records.filter(pc.equal(records.column("attempt"), newest["attempt"]))
    last = pc.max(ours.column("written_at")).as_py()
    if last is None:
        return None
    started = datetime.datetime.fromisoformat(newest["started"]).timestamp()
    since = max(started, last - 60 * RECENT_MINUTES)
    recent = ours.filter(pc.greater_equal(ours.column("written_at"), since))
    if not recent.num_rows:
        return None  # the writers' clocks are behind the driver's
    return Rate(max(1.0, last - since), recent.num_rows, schema.total(recent, "rows"))


def _moment(seconds: float | None) -> datetime.datetime | None:
    try:
        return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):  # in a record that no run of ours wrote
        return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _iso(moment: datetime.datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
