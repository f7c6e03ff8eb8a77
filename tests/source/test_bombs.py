"""Hostile files: each is named, costs its own rows alone, and takes no more memory than is said.

Survey and reading are done in a process of its own each, whose peak is measured: the former is the driver's
part of a job, the latter a reader's.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import hostile

DRIVER_MIB = 2048
"""Of a process that plans, where a few small files are looked at: beside the processes that it starts."""
LOOKING_MIB = 3072 + 512
"""Of each of the latter: `survey.MOST_MEMORY`, and what it has once it has started."""
READER_MIB = 2560
FEW = [("parquet", ""), ("text", ".gz"), ("jsonl", ".zst"), ("csv", ".gz")]
MANY = [
    (kind, suffix)
    for kind in ("text", "jsonl", "csv", "tsv", "text-files")
    for suffix in hostile.COMPRESS
    if (kind, suffix) not in FEW
]
PLANNED = """
import json, resource, sys
from benchmarks.memory import peak_mib
from pipeline.config.load import parse_config
from pipeline.model import checkpoint
from pipeline.plan.make import make_plan

job = parse_config(json.load(open(sys.argv[1])))
made = make_plan(job, checkpoint.resolve("albert-mini"), "digest")
open(sys.argv[2], "wb").write(made.to_bytes())
beside = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps({"failed": made.failed_files, "peak": peak_mib(), "beside": beside}))
"""
READ = """
import json, sys
from benchmarks.memory import peak_mib
from pipeline.config.load import parse_config
from pipeline.plan.plan import Plan
from pipeline.source import reader

job = parse_config(json.load(open(sys.argv[1])))
made = Plan.from_bytes(open(sys.argv[2], "rb").read())
files, splits = {}, 0
for scan in made.scans():
    for _, parts in reader.read_splits(scan, job, made.columns):
        splits += 1
        for part in parts:
            seen = files.setdefault(part.piece.source_file, {"rows": 0, "rejects": 0, "errors": []})
            if part.error:
                seen["errors"].append([type(part.error).__name__, str(part.error)])
            else:
                seen["rows"] += len(part.documents.texts)
                seen["rejects"] += part.documents.rejects.num_rows
        parts = part = None  # as a task does: what it read of a split is gone before the next
print(json.dumps({"files": files, "splits": splits, "peak": peak_mib()}))
"""


def collection(folder: Path, kind: str, suffix: str) -> dict[str, Any]:
    """Hostile files with good ones between them; the source that they are."""
    files = folder / "in"
    files.mkdir()
    for number, (name, data) in enumerate(hostile.of(kind, suffix, folder)):
        (files / f"{number:02d}-{name}.{kind}{suffix}").write_bytes(data)
        (files / f"{number:02d}-good.{kind}{suffix}").write_bytes(hostile.good(kind, suffix))
    carried = {} if kind.startswith("text") else {"carry": ["key"]}
    return {"path": str(files), "format": kind, **carried}


def measured(script: str, *arguments: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "suffix"), [*FEW, *(pytest.param(*each, marks=pytest.mark.slow) for each in MANY)]
)
def test_hostile_files_cost_themselves_alone(kind: str, suffix: str, tmp_path: Path) -> None:
    source = collection(tmp_path, kind, suffix)
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"source": {"s": source}, "output": {"path": str(tmp_path / "out")}}))
    planned = measured(PLANNED, job, tmp_path / "plan")
    read = measured(READ, job, tmp_path / "plan")
    print(kind, suffix, {name: planned[name] for name in ("peak", "beside")}, read["peak"], read["splits"])
    for path in sorted(Path(source["path"]).iterdir()):
        name = f"s/in/{path.name}"
        seen = read["files"].get(name)
        if path.name[3:].startswith("good"):
            assert seen == {"rows": 1 if kind == "text-files" else 20, "rejects": 0, "errors": []}, name
        else:
            print("   ", path.name, path.stat().st_size, planned["failed"].get(name), seen)
            empty = "empty-members" in name  # a file without a byte of content has no rows to account for
            assert name in planned["failed"] or seen or empty, f"{name} is unaccounted for"
            assert {error for error, _ in seen["errors"]} <= {"SourceError"} if seen else True
    assert planned["peak"] < DRIVER_MIB
    assert planned["beside"] < LOOKING_MIB
    assert read["peak"] < READER_MIB
