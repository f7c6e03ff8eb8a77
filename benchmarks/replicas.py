"""Measures the driver's own work, and computes how many replicas one driver keeps up with.

    python -m benchmarks.replicas [--measure 2 8 16] [--seconds 60]

Three parts are measured, each in CPU seconds of the process that does it:

- the results: a record from its Ray row, progress, and the ledger, in this process;
- the tracker of signs of life: its own work with as many processes at work, in this process, and Ray's cost
  of a call, in an actor;
- Ray Data's loop in a real run: replicas that sleep, on a private Ray, for several numbers of replicas and
  two times of a split; a plane is fitted through them.

The table for more replicas than this machine holds is computed from these, and says so.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.device import RATE
from benchmarks.encoder import make_model
from benchmarks.memory import peak_mib
from benchmarks.simulated import DRIVER
from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ledger import Ledger
from pipeline.dataset.record import ShardRecord
from pipeline.embed.row import from_row, to_row
from pipeline.operate.progress.counts import Figures, RunTotal
from pipeline.telemetry.liveness import BEAT_SECONDS, LivenessTracker, WorkerProcess
from tests import records

ROWS = 20
"""Rows of a split in a real run: what travels with it must cost nothing."""
MILLION = 1_000_000
LEDGER_SECONDS = 60
REPLICAS = (10, 100, 1000)
SPLIT_SECONDS = (3.3, 33.0)
"""65,536 rows at 20,000 rows a second (short texts on a large GPU), and at 2,000."""
STAGE_SHARES = (1.0, 0.5, 0.25)
"""Seconds of a split on a replica, in a reader and in a writer, as shares of the first."""


@dataclass(frozen=True)
class Costs:
    """CPU seconds of one core, for each split or call, or each second of a run.

    idle, per_replica, per_split: of the driver's process in a real run.
    """

    result: float
    tracker_call: float
    actor_call: float
    idle: float
    per_replica: float
    per_split: float

    def driver(self, replicas: int, split_seconds: float) -> float:
        """Returns the share of a core that the driver's process takes."""
        return self.idle + self.per_replica * replicas + self.per_split * replicas / split_seconds

    def tracker(self, replicas: int, split_seconds: float) -> float:
        """Returns the share of a core that the tracker's process takes."""
        at_work = replicas * sum(STAGE_SHARES)
        calls = at_work / BEAT_SECONDS + 2 * len(STAGE_SHARES) * replicas / split_seconds
        return calls * (self.tracker_call + self.actor_call)


def of_results(folder: Path, splits: int, per_second: float) -> tuple[float, float]:
    """Returns the CPU seconds of a result, and the MiB of this process after so many."""
    values = {
        "source": {"docs": {"path": f"{folder}/*.parquet", "text_column": "text"}},
        "output": {"path": str(folder / "out")},
    }
    dataset = Dataset.of(parse_config(values))
    ledger = Ledger(dataset, "a0")
    now = itertools.count()
    figures = Figures(RunTotal(splits, 0, "rows", splits, 0), "a0", lambda: next(now) / per_second)
    rows = [to_row(_record(number)) for number in range(100)]
    begun = time.process_time()
    for number in range(splits):
        record = from_row(rows[number % len(rows)])
        assert isinstance(record, ShardRecord)
        figures.add(record)
        ledger.add(record)
        if number % round(per_second * LEDGER_SECONDS) == 0:
            ledger.flush()
            figures.moment()
    ledger.flush()
    return (time.process_time() - begun) / splits, peak_mib()


def _record(number: int) -> ShardRecord:
    pieces = [records.piece(f"{number}.parquet", 65_536)]
    return records.record(f"{number:024x}", rows=65_536, tokens=3_000_000, pieces=pieces, attempt="a0")


def of_tracker(replicas: int) -> float:
    """Returns the CPU seconds of a call to the tracker while so many replicas are at work."""
    tracker = LivenessTracker(lambda: ())
    stages = ("encode", "read", "write")
    works = [
        (stage, number)
        for stage, share in zip(stages, STAGE_SHARES, strict=True)
        for number in range(max(1, round(replicas * share)))
    ]
    for stage, number in works:
        tracker.enter(f"{number}", stage, WorkerProcess("node", "address", number))
    calls, begun = 0, time.process_time()
    for round_ in range(max(1, 100_000 // len(works))):
        for stage, number in works:
            place = WorkerProcess("node", "address", number)
            tracker.beat(f"{number}-{round_}" if round_ else f"{number}", stage)
            tracker.leave(f"{number}-{round_}" if round_ else f"{number}", stage)
            tracker.enter(f"{number}-{round_ + 1}", stage, place)
            calls += 3
        tracker.standing()
    return (time.process_time() - begun) / calls


ACTOR = """
import os, sys, time
import psutil, ray
from pipeline.embed.on_ray.cluster import private
from pipeline.telemetry.liveness import LivenessTracker

class Idle(LivenessTracker):
    def pid(self):
        return os.getpid()

@ray.remote(num_cpus=0)
def send(tracker, calls):
    for number in range(calls):
        tracker.beat.remote("a", "encode")
        if number % 100 == 0:
            time.sleep(0.02)  # a thousand replicas send one each, and not one a thousand
    ray.get(tracker.pid.remote())

calls, senders = int(sys.argv[1]), 4
with private(num_cpus=2):
    tracker = ray.remote(Idle).options(num_cpus=0).remote(dict)
    actor = psutil.Process(ray.get(tracker.pid.remote()))
    ray.get([send.remote(tracker, 10) for _ in range(senders)])
    before = sum(actor.cpu_times()[:2])
    ray.get([send.remote(tracker, calls) for _ in range(senders)])
    print("CALL", (sum(actor.cpu_times()[:2]) - before) / calls / senders)
"""


def of_actor(calls: int) -> float:
    """Returns the CPU seconds that a call costs the actor's process, Ray's part included."""
    done = subprocess.run(
        [sys.executable, "-c", ACTOR, str(calls)], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.rpartition("CALL")[2].split()[0])  # Ray prints, too


def of_run(model: Path, folder: Path, replicas: int, split_seconds: float, seconds: float) -> float:
    """Returns the share of a core that the driver took in the middle of a run."""
    splits = round(replicas * seconds / split_seconds)
    (folder / "rows").mkdir(parents=True)
    texts = [f"text {number}" for number in range(splits * ROWS)]
    pq.write_table(pa.table({"text": texts}), folder / "rows" / "0.parquet", row_group_size=ROWS)
    values = {
        "source": {"rows": {"path": f"{folder}/rows/*.parquet"}},
        "model": {"name": str(model)},
        "output": {"path": str(folder / "out"), "rows_per_shard": ROWS},
        "compute": {"device": "cuda", "max_replicas": replicas, "cpus_per_replica": 0.01,
                    "cpus_per_reader": 0.1, "cpus_per_writer": 0.1},
    }  # fmt: skip
    config = folder / "job.json"
    config.write_text(json.dumps(values))
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(replicas), str(config)],
        env=os.environ | {RATE: str(ROWS / split_seconds)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    driver, data = psutil.Process(process.pid), folder / "out" / "data"
    first = _when(process, data, splits // 4)
    before, begun = sum(driver.cpu_times()[:2]), time.perf_counter()
    last = _when(process, data, splits * 9 // 10)
    spent = sum(driver.cpu_times()[:2]) - before
    took = time.perf_counter() - begun
    assert last > first
    assert process.wait() == 0
    return spent / took


def _when(process: "subprocess.Popen[bytes]", data: Path, shards: int) -> int:
    """Waits until so many shards are there; returns their number."""
    while (found := len(list(data.glob("*.parquet")))) < shards:
        assert process.poll() is None
        time.sleep(0.2)
    return found


def plane(points: Sequence[tuple[int, float, float]]) -> tuple[float, float, float]:
    """Fits a plane through points of replicas, splits a second, and the share of a core that they took."""
    matrix = np.array([(1.0, replicas, rate) for replicas, rate, _ in points])
    found = np.linalg.lstsq(matrix, np.array([share for *_, share in points]), rcond=None)[0]
    return tuple(max(0.0, float(each)) for each in found)  # type: ignore[return-value]


def measured(points: Sequence[tuple[int, float, float]], costs: Costs, mib: float) -> str:
    """Formats what was measured, as Markdown."""
    rows = [
        (f"a run: {replicas} replicas, {rate:g} splits/s", f"{share:.1%} of a core")
        for replicas, rate, share in points
    ]
    rows += [
        ("the driver, without work", f"{costs.idle:.1%} of a core"),
        ("the driver, for each replica", f"{costs.per_replica:.2%} of a core"),
        ("the driver, for each split", f"{costs.per_split * 1e3:.1f} ms"),
        ("of that: our part of a result", f"{costs.result * 1e6:.0f} µs"),
        ("the driver's memory after a million results", f"{mib:,.0f} MiB"),
        (
            "the tracker, for each call: ours and Ray's",
            f"{costs.tracker_call * 1e6:.0f} + {costs.actor_call * 1e6:.0f} µs",
        ),
    ]
    return "\n".join(["| measured | |", "|---|---|", *(f"| {what} | {cost} |" for what, cost in rows), ""])


def computed(costs: Costs) -> str:
    """Formats the computed shares, as Markdown."""
    lines = [
        "| computed: replicas | seconds a split | splits/s | a million splits take | driver's core "
        "| of that: results | tracker's core |",
        "|---|---|---|---|---|---|---|",
    ]
    for replicas, seconds in itertools.product(REPLICAS, SPLIT_SECONDS):
        rate = replicas / seconds
        lines.append(
            f"| {replicas:,} | {seconds:g} | {rate:,.1f} | {MILLION / rate / 3600:,.1f} h "
            f"| {costs.driver(replicas, seconds):.0%} | {costs.result * rate:.1%} "
            f"| {costs.tracker(replicas, seconds):.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", type=int, nargs="*", default=[2, 8, 16], help="replicas of real runs")
    parser.add_argument("--seconds", type=float, default=60, help="seconds of work of each real run")
    parser.add_argument("--splits", type=int, default=MILLION, help="results that are counted")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        result, mib = of_results(folder, told.splits, REPLICAS[-1] / SPLIT_SECONDS[0])
        model = make_model(folder / "model", "albert-mini")
        points = []
        for replicas, seconds in itertools.product(told.measure, (1.0, 4.0)):
            share = of_run(model, folder / f"{replicas}-{seconds:g}", replicas, seconds, told.seconds)
            points.append((replicas, replicas / seconds, share))
    costs = Costs(result, of_tracker(REPLICAS[-1]), of_actor(20_000), *plane(points))
    print(measured(points, costs, mib))
    print(computed(costs))


if __name__ == "__main__":
    main()
