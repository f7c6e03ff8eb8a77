"""Measures how many fast devices these processors feed, with replicas that only take a device's time.

    python -m benchmarks.simulated [--rate 20000] [--replicas 1 2 4] [--seconds 20] [--rounds 5]

The whole job runs through Ray, from files to shards. A replica returns ready-made vectors of 768 numbers, and
sleeps as long as a device would need that embeds `--rate` rows per second. Texts are docstrings, cut to the
length of a paragraph. The rate is measured in the middle of a run, from the shard at a quarter of them to the
one before the last tenth; the rounds alternate. CPU seconds are those of all processes of the machine, from
start to end.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.corpora import docstrings
from benchmarks.device import RATE, ROWS_PER_SPLIT
from benchmarks.encoder import make_model
from benchmarks.spread import spread

LONGEST = 600
DRIVER = """
import sys
from pipeline.cli import main
from pipeline.embed.on_ray.cluster import private
with private(num_gpus=int(sys.argv[1]), runtime_env={"worker_process_setup_hook": "benchmarks.device.arm"}):
    code = main(["run", sys.argv[2], "--quiet"])
sys.exit(code)
"""


def corpus(folder: Path, rows: int) -> Path:
    """Writes `rows` texts in files of one split each, by repeating the given ones."""
    texts = pc.utf8_slice_codeunits(docstrings(folder).combine_chunks(), 0, LONGEST)
    source = folder / "source"
    source.mkdir()
    for number in range(rows // ROWS_PER_SPLIT):
        at = np.arange(number * ROWS_PER_SPLIT, (number + 1) * ROWS_PER_SPLIT)
        pq.write_table(
            pa.table({"text": texts.take(pa.array(at % len(texts)))}), source / f"{number:05}.parquet"
        )
    return source


def measure(source: Path, model: Path, output: Path, replicas: int, rate: float) -> dict[str, float]:
    """Runs once; returns rows per second in the middle, total seconds, and CPU seconds."""
    config = output.with_suffix(".json")
    values = {
        "source": {"rows": {"path": f"{source}/*.parquet"}},
        "model": {"name": str(model)},
        "output": {"path": str(output), "rows_per_shard": ROWS_PER_SPLIT, "max_split_bytes": 1 << 30},
        "compute": {
            "device": "cuda",
            "min_replicas": replicas,
            "max_replicas": replicas,
            "cpus_per_replica": 0.1,  # a sleeping replica needs none
        },
    }
    config.write_text(json.dumps(values))
    environment = os.environ | {RATE: str(rate)}
    before, begun = _busy_seconds(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", DRIVER, str(replicas), str(config)],
        env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    seconds, cpu = time.perf_counter() - begun, _busy_seconds() - before
    records = pq.read_table(output / "manifest.parquet")
    return {"seconds": seconds, "cpu": cpu, "rows": pc.sum(records["rows"]).as_py(), "rate": steady(records)}


def steady(records: pa.Table, what: str = "rows") -> float:
    """Returns rows (or tokens) per second in the middle of a run."""
    begun, ended = middle(records)
    times, rows = records["written_at"].to_numpy(), records[what].to_numpy()
    return float(rows[(times > begun) & (times <= ended)].sum() / (ended - begun))


def middle(records: pa.Table) -> tuple[float, float]:
    """Returns when the shard at a quarter of them and the one before the last tenth were written."""
    times = np.sort(records["written_at"].to_numpy())
    return float(times[len(times) // 4]), float(times[len(times) - 1 - len(times) // 10])


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=20_000, help="rows per second of one device")
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=20, help="seconds of work for each device")
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {replicas: [] for replicas in told.replicas}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = make_model(folder / "model", "albert-mini")
        for _, replicas in itertools.product(range(told.rounds), told.replicas):
            with tempfile.TemporaryDirectory(dir=folder) as work:
                source = corpus(Path(work), int(told.rate * told.seconds * replicas))
                found[replicas].append(measure(source, model, Path(work) / "out", replicas, told.rate))
    print(table(found, told.rate))


def table(found: Mapping[int, Sequence[Mapping[str, float]]], rate: float) -> str:
    """Formats the runs by number of replicas, as Markdown."""
    lines = [
        "| devices | rows/s if all are busy | rows/s (least to most) | of that | CPU seconds a million rows "
        "| CPUs for one |",
        "|---|---|---|---|---|---|",
    ]
    for replicas, runs in found.items():
        rates = [run["rate"] for run in runs]
        median = statistics.median(rates)
        cpu = statistics.median(run["cpu"] / run["rows"] * 1e6 for run in runs)
        lines.append(
            f"| {replicas} | {replicas * rate:,.0f} | {spread(rates, ',.0f')} "
            f"| {median / (replicas * rate):.3f} | {cpu:.0f} | {cpu * rate / 1e6:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
