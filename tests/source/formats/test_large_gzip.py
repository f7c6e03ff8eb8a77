"""Tests that a large gzip of JSON lines is planned and read exactly, in bounded memory."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

MEASURED = """
import json, sys
from hashlib import blake2b
from benchmarks.memory import peak_mib
from pipeline.config.load import parse_config
from pipeline.model import checkpoint
from pipeline.plan.make import make_plan
from pipeline.source import reader

path, split_bytes = sys.argv[1], int(sys.argv[2])
job = parse_config({
    "source": {"s": {"path": path, "carry": ["n"]}},
    "output": {"path": path + ".out", "max_split_bytes": split_bytes},
})
made = make_plan(job, checkpoint.resolve("albert-mini"), "digest")
planned = peak_mib()
rows, digest = 0, blake2b()
[scan] = list(made.scans())
for _, [part] in reader.read_splits(scan, job, made.columns):
    assert part.documents.rows.column("n").to_pylist() == list(range(rows, rows + len(part.documents.texts)))
    rows += len(part.documents.texts)
    digest.update("".join(part.documents.texts.to_pylist()).encode())
peak = peak_mib()
print(json.dumps({"rows": rows, "digest": digest.hexdigest(), "splits": len(made.split_ids),
                  "planning_MB": int(planned), "peak_MB": int(peak)}))
"""
BOUND_MB = 1024
"""The bound with splits of 64 MB, as for a GPU; a process that only imported the package has 200 MB."""


def write_gzip(path: Path, size: int) -> tuple[int, str]:
    """Writes a gzip of at least `size` bytes; returns the number of its rows and a digest of their texts."""
    from hashlib import blake2b

    chance, rows, digest = random.Random(0), 0, blake2b()
    with gzip.open(path, "wb", compresslevel=1) as file:
        while file.fileobj.tell() < size:
            for _ in range(1000):
                text = chance.randbytes(500).hex()
                file.write(json.dumps({"text": text, "n": rows}).encode() + b"\n")
                digest.update(text.encode())
                rows += 1
    return rows, digest.hexdigest()


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", [40 << 20, pytest.param(2 << 30, marks=pytest.mark.slow)])
def test_a_large_gzip_stays_within_its_bound(tmp_path: Path, size: int) -> None:
    path = tmp_path / "large.jsonl.gz"
    rows, digest = write_gzip(path, size)
    command = [sys.executable, "-c", MEASURED, str(path), str(64 << 20)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(path.stat().st_size, found)
    assert (found["rows"], found["digest"]) == (rows, digest)
    assert found["splits"] > size // (64 << 20)
    assert found["peak_MB"] < BOUND_MB
