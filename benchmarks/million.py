"""Measures planning and resuming a million splits of a hundred thousand files in a distant store.

    python -m benchmarks.million [--files 100000] [--splits-per-file 10] [--delay 100]

Listings and footers are synthetic, and pass through the storage interface: `benchmarks.bucket` answers as S3
does, each answer late by `--delay` milliseconds. Every measurement is a process of its own; the table shows
its peak memory.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bucket import BUCKET, SHARD_BYTES
from pipeline import schema
from pipeline.config.load import parse_config
from pipeline.config.sections import Config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.record import ShardRecord, parquet_bytes, to_table
from pipeline.plan.plan import Split
from tests import records
from tests.s3.server import free_ports

ROWS = 100
RECORDS_PER_FILE = 5000
ATTEMPT = "20261101T000000Z-00000000"
MEASURED = """
import gc, json, sys, time
from benchmarks.memory import peak_mib
from pipeline import cli, telemetry
from pipeline.cli.main import GARBAGE
from pipeline.config.load import load_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.driver.run import frozen_plan
from pipeline.model.check import usable_checkpoint

def plan(path):
    parsed = load_config(path)
    model = usable_checkpoint(parsed)
    identity = Identity.of(parsed, model)
    parsed = parsed.absolute()
    frozen_plan(parsed, Dataset.of(parsed), identity, model)
    return 0

gc.set_threshold(*GARBAGE)
begun = time.perf_counter()
code = plan(sys.argv[2]) if sys.argv[1] == "plan" else cli.main(["run", sys.argv[2], "--quiet"])
print("MEASURED", json.dumps({
    "code": code, "seconds": time.perf_counter() - begun, "cpu": time.process_time(), "peak": peak_mib(),
    "requests": telemetry.requests.total(),
}))
"""
HEADER = "| what | answers after | seconds | CPU seconds | MiB at most | asked of storage | exit code |"


@contextmanager
def bucket(files: int, splits: int, folder: Path) -> Iterator[str]:
    """Runs the stand-in as a process of its own; yields its URL."""
    texts = [f"text number {number}" for number in range(ROWS * splits)]
    pq.write_table(pa.table({"text": texts}), folder / "footer", row_group_size=ROWS, compression="zstd")
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.bucket", str(port), "--files", str(files), "--footer",
               str(folder / "footer")]  # fmt: skip
    server = subprocess.Popen(command)
    try:
        _wait(url)
        yield url
    finally:
        server.kill()
        server.wait()


def _wait(url: str) -> None:
    for _ in range(100):
        try:
            tell(url, "delay", "0")
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(url)


def tell(url: str, what: str, text: str) -> None:
    """Sets the bucket's delay, or its shards."""
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/{BUCKET}/{what}", text.encode(), method="PUT")
    ).close()


def measured(what: str, config: Path) -> dict[str, Any]:
    """Returns the measurements that a process prints after planning or running a job."""
    command = [sys.executable, "-c", MEASURED, what, str(config)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.rpartition("MEASURED")[2])
    return found


def job(folder: Path, url: str) -> Path:
    """Writes a config file."""
    options = {"endpoint_url": url}
    values = {
        "source": {"rows": {"path": f"s3://{BUCKET}/source/*.parquet", "options": options}},
        "model": {"name": "albert-mini"},
        "output": {"path": f"s3://{BUCKET}/out", "rows_per_shard": ROWS, "options": options},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(values))
    return path


def record(split: Split) -> ShardRecord:
    """Makes a record as a shard of this split would have it."""
    split_id, pieces = split
    done = [
        dict.fromkeys(schema.PIECE.names)
        | {name: getattr(piece, name) for name in ("source", "file", "start", "stop")}
        | {"rows": piece.stop - piece.start, "rejects": 0}
        for piece in pieces
    ]
    rows = sum(each["rows"] for each in done)
    known = {
        "rows": rows, "tokens": 5 * rows, "token_histogram": [rows], "content_digest": "0" * 32,
        "pieces": done, "attempt": ATTEMPT, "file_bytes": SHARD_BYTES,
    }  # fmt: skip
    return records.record(split_id, **known)


def pretend(url: str, parsed: Config) -> int:
    """Makes all shards appear, and a ledger that lists each; returns the ledger's bytes."""
    dataset = Dataset.of(parsed)
    plan = dataset.required_plan()
    tell(url, "shards", " ".join(f"out/data/part-{each}.parquet" for each in plan.split_ids.to_pylist()))
    made = map(record, plan.splits())
    total = 0
    for number, block in enumerate(iter(lambda: list(itertools.islice(made, RECORDS_PER_FILE)), [])):
        data = parquet_bytes(to_table(block))
        dataset.storage.put(dataset.layout.ledger_file(ATTEMPT, number), data)
        total += len(data)
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--splits-per-file", type=int, default=10)
    parser.add_argument("--delay", type=float, default=100, help="milliseconds that each answer waits")
    told = parser.parse_args()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (
        tempfile.TemporaryDirectory() as scratch,
        bucket(told.files, told.splits_per_file, Path(scratch)) as url,
    ):
        config = job(Path(scratch), url)
        print(f"{HEADER}\n|---|---|---|---|---|---|---|")
        show("plan and freeze", 0, measured("plan", config))
        parsed = parse_config(json.loads(config.read_text()))
        print(f"ledger: {pretend(url, parsed) / 1e6:.0f} MB", file=sys.stderr)
        tell(url, "delay", str(told.delay))
        for what in ("resume: commit what is there", "resume: it is complete"):
            show(what, told.delay, measured("run", config))


def show(what: str, delay: float, found: dict[str, Any]) -> None:
    """Prints a row of the table."""
    print(
        f"| {what} | {delay:.0f} ms | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak']:.0f} "
        f"| {found['requests']:,} | {found['code']} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
