"""Compares a resume and a night with a full run: `python -m benchmarks.nights [--rounds 5]`.

The corpus is Python's docstrings in sixteen local files, with albert-mini. For the resume, half of the shards
exist. For the night, a dataset of the day before is the base, and since then nothing has changed, or one row
of a hundred in every file (rows with another text are embedded, the rest of their file take their vectors
from the base).
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import job
from benchmarks.spread import spread
from jobs.docstrings import write as write_docstrings

ROWS_PER_SHARD = 250
CHANGED = 100


def run(folder: Path, name: str, source: Path, **more: Any) -> tuple[float, dict[str, Any]]:
    """Returns the seconds of a run, and its summary."""
    values = {
        "source": {"rows": {"path": f"{source}/*.parquet", "text_column": "docstring"}},
        "model": {"name": "albert-mini"},
        "output": {"path": str(folder / name), "rows_per_shard": ROWS_PER_SHARD},
    }
    begun = time.perf_counter()
    job.run(values | more, folder / f"{name}.json")
    seconds = time.perf_counter() - begun
    return seconds, json.loads((folder / name / "summary.json").read_text())


def half(whole: Path, dataset: Path) -> None:
    """Makes a dataset of the same job that was interrupted: every second shard exists."""
    shutil.copytree(whole, dataset)
    for name in ("manifest.parquet", "summary.json", "report.html", "data/_SUCCESS"):
        (dataset / name).unlink()
    for shard in sorted((dataset / "data").iterdir())[::2]:
        shard.unlink()


def changed(source: Path, target: Path) -> None:
    """Writes the same files with one text of a hundred changed."""
    target.mkdir()
    for file in source.glob("*.parquet"):
        table = pq.read_table(file)
        texts = np.array(table["docstring"].to_pylist(), object)
        texts[::CHANGED] += " Edited."
        column = table.column_names.index("docstring")
        table = table.set_column(column, "docstring", pa.array(texts.tolist(), pa.string()))
        pq.write_table(table, target / file.name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_docstrings(folder / "source")
            changed(folder / "source", folder / "edited")
            base = {"reuse": {"base": str(folder / "full")}}
            for name, source, more in (
                ("full", "source", {}),
                ("resume of half", "source", {}),
                ("night, nothing changed", "source", base),
                ("night, one row of a hundred changed", "edited", base),
            ):
                if name == "resume of half":
                    half(folder / "full", folder / name)
                found.setdefault(name, []).append(run(folder, name, folder / source, **more))
    print(
        "| run | seconds (least to most) | of a full one | rows | of them embedded |\n|---|---|---|---|---|"
    )
    full = statistics.median(seconds for seconds, _ in found["full"])
    for name, runs in found.items():
        times, summary = [seconds for seconds, _ in runs], runs[0][1]
        # A summary's `embedded` covers all attempts at a dataset; `run` has a resume's own rows.
        embedded = summary["run"]["rows"] if name == "resume of half" else summary["embedded"]
        print(
            f"| {name} | {spread(times, '.1f')} | {statistics.median(times) / full:.2f} "
            f"| {summary['rows']:,} | {embedded:,} |"
        )


if __name__ == "__main__":
    main()
