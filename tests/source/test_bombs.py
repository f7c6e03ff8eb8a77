"""Tests of hostile files: each is named, costs only its own rows, and takes no more memory than documented.

Survey and reading run in one process each, whose peak is measured. The survey is the driver's part of a job,
and reading is a reader's part. A last test runs a job over files of several formats.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.memory import peak_mib
from pipeline.errors import ExitCode
from tests import hostile
from tests.clusters import without_ray
from tests.conftest import write_config

DRIVER_MIB = 2048
"""The bound of a process that plans, and surveys a few small files; without the processes that it starts."""
LOOKING_MIB = 3072 + 512
"""The bound of each of these: `process_pool.MAX_MEMORY`, and the memory that it has after its start."""
READER_MIB = 2560
LOOK_SECONDS = 0.2
"""The interval at which the processes of a job are measured. A peak after the last measurement is missed."""
FEWER_ROWS = ["2000000", "10"]
"""`bounds.ALWAYS_ROWS` and `ROWS_A_BYTE` of the default run: all rows that CSV may have take a minute."""
FEW = [("jsonl", ".zst"), ("parquet", ""), ("text", ".gz"), ("csv", ".gz")]
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
from pipeline.source.formats import bounds

if len(sys.argv) > 3:
    bounds.ALWAYS_ROWS, bounds.ROWS_A_BYTE = map(int, sys.argv[3:])
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
        parts = part = None  # a task, too, drops what it read of a split before it reads the next
print(json.dumps({"files": files, "splits": splits, "peak": peak_mib()}))
"""


def collection(folder: Path, kind: str, suffix: str) -> dict[str, Any]:
    """Writes hostile files with good ones between them; returns their source."""
    files = folder / "in"
    files.mkdir(parents=True)
    for number, (name, data) in enumerate(hostile.of(kind, suffix, folder)):
        (files / f"{number:02d}-{name}.{kind}{suffix}").write_bytes(data)
        (files / f"{number:02d}-good.{kind}{suffix}").write_bytes(hostile.good(kind, suffix))
    carried = {} if kind.startswith("text") else {"carry": ["key"]}
    return {"path": str(files), "format": kind, **carried}


def measured(script: str, *arguments: Path | str) -> dict[str, Any]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [pytest.param(*each, marks=[] if each == FEW[0] else pytest.mark.full) for each in FEW],
)
def test_hostile_files_cost_themselves_alone(kind: str, suffix: str, tmp_path: Path) -> None:
    check(kind, suffix, tmp_path, FEWER_ROWS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "suffix"), [*FEW, *MANY])
def test_hostile_files_of_every_kind_cost_themselves_alone(kind: str, suffix: str, tmp_path: Path) -> None:
    check(kind, suffix, tmp_path)


def check(kind: str, suffix: str, tmp_path: Path, rows: Sequence[str] = ()) -> None:
    """Plans and reads a collection; checks that each file is accounted for.

    Args:
        rows: the bounds of rows of a file, if not the usual ones.
    """
    source = collection(tmp_path, kind, suffix)
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"source": {"s": source}, "output": {"path": str(tmp_path / "out")}}))
    planned = measured(PLANNED, job, tmp_path / "plan", *rows)
    read = measured(READ, job, tmp_path / "plan")
    print(kind, suffix, {name: planned[name] for name in ("peak", "beside")}, read["peak"], read["splits"])
    for path in sorted(Path(source["path"]).iterdir()):
        name = f"s/in/{path.name}"
        seen = read["files"].get(name)
        if path.name[3:].startswith("good"):
            assert seen == {"rows": 1 if kind == "text-files" else 20, "rejects": 0, "errors": []}, name
        else:
            print("   ", path.name, path.stat().st_size, planned["failed"].get(name), seen)
            empty = "empty-members" in name  # a file without content has no rows to account for
            assert name in planned["failed"] or seen or empty, f"{name} is unaccounted for"
            assert {error for error, _ in seen["errors"]} <= {"SourceError"} if seen else True
    assert planned["peak"] < DRIVER_MIB
    assert planned["beside"] < LOOKING_MIB
    assert read["peak"] < READER_MIB


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_over_hostile_files_of_several_formats(tmp_path: Path, tiny: Path) -> None:
    sources = {kind: collection(tmp_path / kind, kind, suffix) for kind, suffix in FEW}
    sources["csv"]["carry"] = []  # its columns are strings, but numbers in another format
    values = {
        "source": sources,
        "model": {"name": str(tiny)},
        "output": {"path": str(tmp_path / "out")},
        "quality": {"max_reject_fraction": 1},
    }
    job = write_config(tmp_path / "job.yaml", values)
    code, ended, peak = run(job, tmp_path)
    assert code == ExitCode.INCOMPLETE, ended
    assert not (tmp_path / "out/data/_SUCCESS").exists()
    check_peaks(peak)
    assert any("read" in title for title in peak)
    code, ended, peak = run(job, tmp_path, "--set", "quality.allow_failed_files=true")
    assert code == ExitCode.DONE, ended
    assert (tmp_path / "out/data/_SUCCESS").exists()
    check_peaks(peak)

    rows, rejects = places(tmp_path / "out/data"), places(tmp_path / "out/rejects")
    good, accounted = per_file(rows), per_file(pa.concat_tables([rows, rejects]))
    for kind, source in sources.items():
        for path in sorted(Path(source["path"]).iterdir()):
            name = f"{kind}/in/{path.name}"
            if path.name[3:].startswith("good"):
                assert (good.get(name), accounted.get(name)) == (20, 20), name
                assert name not in ended["failed_files"]
            else:
                known = name in accounted or name in ended["failed_files"] or "empty-members" in name
                assert known, f"{name} is unaccounted for"


def run(job: Path, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], dict[str, float]]:
    """Runs a job with its own Ray. Returns its exit code, its summary, and the peaks of its processes."""
    command = [sys.executable, "-m", "pipeline", "run", str(job), "--quiet", "--json", *arguments]
    with (folder / "said").open("wb") as said, (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=said, stderr=log, env=without_ray())
        try:
            peak = peaks(process)
        finally:
            process.terminate()
            process.wait()
    print(peak)
    log_end = (folder / "log").read_text()[-3000:]
    assert process.returncode in (ExitCode.DONE, ExitCode.INCOMPLETE), log_end
    ended: dict[str, Any] = json.loads((folder / "said").read_text())
    return process.returncode, ended, peak


def places(folder: Path) -> pa.Table:
    """Returns the source files and positions of the rows, or rejects, of a dataset."""
    return pq.read_table(folder, columns=["source_file", "source_row"])


def per_file(rows: pa.Table) -> dict[str, int]:
    """Counts the rows of each file; checks that none is there twice."""
    assert rows.group_by(rows.column_names).aggregate([]).num_rows == rows.num_rows
    counts = rows.group_by("source_file").aggregate([("source_row", "count")])
    return dict(zip(*(column.to_pylist() for column in counts.columns), strict=True))


def check_peaks(peak: dict[str, float]) -> None:
    """Checks that the driver, and every worker that read, stayed within their bounds."""
    assert peak["driver"] < DRIVER_MIB
    assert max((most for title, most in peak.items() if "read" in title), default=0) < READER_MIB


def peaks(job: subprocess.Popen[bytes]) -> dict[str, float]:
    """Measures the processes of a job until it ends. Returns the highest peak of each kind, in MiB.

    A kind is `driver`, or the title that Ray gives a worker while it works.
    """
    peak: dict[int, float] = {}
    kinds: dict[str, set[int]] = {"driver": {job.pid}}
    while job.poll() is None:
        for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]:
            with suppress(psutil.Error, OSError, AssertionError):  # it has ended meanwhile
                title = " ".join(process.cmdline())
                peak[process.pid] = peak_mib(process.pid)
                if title.startswith("ray::"):
                    kinds.setdefault(title, set()).add(process.pid)
        time.sleep(LOOK_SECONDS)
    return {kind: max(peak[pid] for pid in pids) for kind, pids in kinds.items()}
