"""Measures the changes between two nights: a thousand of a million rows differ.

    python -m benchmarks.changes [--rows 1000000] [--changed 1000]

There is no model: vectors are random, of 32 dimensions, in sixteen shards. The changed rows stand in one
file, or are spread evenly over all files; or nothing changed. The last column is the least that the night
itself costs without a model and without Ray: writing the shards that differ. Each measurement of the changes
is a process of its own; the table shows its peak memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schema
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.writer import Contents, write
from pipeline.plan.plan import Plan
from tests.written_datasets import COLUMNS, Kind, claimed, complete

FILES = 16
DIMENSIONS = 32
KIND = Kind(dimensions=DIMENSIONS)
MEASURED = """
import json, sys, time
from benchmarks.memory import peak_mib
from pipeline.config.location import Options
from pipeline.driver.changes import make_changes
from pipeline.nightly.changes.pair import Side

begun, cpu = time.perf_counter(), time.process_time()
made = make_changes(*(Side.at(path, Options()) for path in sys.argv[1:3]))
seconds = time.perf_counter() - begun
print(json.dumps({**made.figures, "seconds": seconds, "cpu": time.process_time() - cpu, "peak": peak_mib()}))
"""


def contents(file: int, keys: npt.NDArray[np.int64], versions: npt.NDArray[np.int64]) -> Contents:
    """Makes a shard: the vector and the hash of a row depend on its key and its version."""
    seeds = np.column_stack([keys, versions])
    hashes = [blake2b(row.tobytes(), digest_size=16).digest() for row in seeds]
    rows = {
        "key": keys, "topic": pa.array([f"t{key % 7}" for key in keys.tolist()]),
        "n_tokens": np.full(len(keys), 9, np.int32), "truncated": np.zeros(len(keys), np.bool_),
        "text_hash": pa.array(hashes, pa.binary()), "source_file": [f"docs/{file}.parquet"] * len(keys),
        "source_row": np.arange(len(keys)),
    }  # fmt: skip
    table = pa.Table.from_pydict(rows, schema=schema.rows_schema(COLUMNS))
    noise = np.random.default_rng(file).standard_normal((len(keys), DIMENSIONS), np.float32)
    vectors = noise + versions[:, None].astype(np.float32)
    piece = {"source": "docs", "file": f"{file}.parquet", "start": 0, "stop": len(keys), "error": None}
    split = blake2b(versions.tobytes() + bytes([file]), digest_size=8).hexdigest()
    rejects = schema.REJECTS.empty_table()
    return Contents(split, table, {"embedding": vectors}, rejects, [piece], KIND.identity.outputs)


def dataset(root: str, rows: int, changed: Sequence[int], before: Dataset | None) -> tuple[Dataset, float]:
    """Makes a complete dataset; returns the seconds to write the shards that it does not share."""
    made, pieces, seconds = claimed(root, KIND), [], 0.0
    versions = np.zeros(rows, np.int64)
    versions[list(changed)] = 1
    for file, keys in enumerate(np.array_split(np.arange(rows), FILES)):
        shard = contents(file, keys, versions[keys])
        pieces.append({"split_id": shard.split_id, "file": f"{file}.parquet", "stop": len(keys)})
        path = before.layout.shard(shard.split_id) if before else ""
        if before and before.storage.exists(path):
            made.storage.copy_if_absent(path, made.layout.shard(shard.split_id))
            continue
        begun = time.perf_counter()
        write(made, shard, {"attempt": "a"})
        seconds += time.perf_counter() - begun
    planned = [
        {"split": at, "scan": at, "source": "docs", "version": "v", "size": 1, "unit": "rows", "start": 0}
        | each
        for at, each in enumerate(pieces)
    ]
    plan = Plan(pa.Table.from_pylist(planned, schema.PLAN), COLUMNS, KIND.identity.dataset_digest)
    made.freeze(plan.to_bytes())
    complete(made, repeated_ids=0)
    return made, seconds


def measured(new: Dataset, old: Dataset) -> dict[str, Any]:
    """Makes the changes in a process of its own, and returns its figures."""
    command = [sys.executable, "-c", MEASURED, new.layout.root, old.layout.root]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changed", type=int, default=1000)
    told = parser.parse_args()
    spread = np.linspace(0, told.rows - 1, told.changed).astype(np.int64).tolist()
    cases = {
        "nothing changed": [],
        f"{told.changed:,} rows of one file": list(range(told.changed)),
        f"{told.changed:,} rows, some of each file": spread,
    }
    print(
        "| night | rows | rows read | rows changed | seconds | CPU seconds | MiB at most "
        "| seconds to write the night's shards |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        old, _ = dataset(f"{folder}/old", told.rows, [], None)
        for number, (name, changed) in enumerate(cases.items()):
            new, written = dataset(f"{folder}/new{number}", told.rows, changed, old)
            found = measured(new, old)
            print(
                f"| {name} | {found['rows']:,} | {found['rows_read']:,} | {found['updated']:,} "
                f"| {found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak']:,.0f} | {written:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
