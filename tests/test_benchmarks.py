"""Runs the benchmarks that can be run small, so that they still work when somebody needs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.full
def test_a_million_splits_in_small() -> None:
    """Plans in several processes, and resumes in both ways, against a bucket of a given size."""
    command = [sys.executable, "-m", "benchmarks.million", "--files", "300", "--delay", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "plan and freeze",
        "resume: commit what is there",
        "resume: it is complete",
    ]
    assert [row[-1] for row in rows] == ["0", "0", "0"], done.stderr
    asked = [int(re.sub(",", "", row[-2])) for row in rows]
    assert asked[0] > 300
    assert max(asked[1:]) < 60, "a resume asks for shards by the folder, not one by one"


@pytest.mark.full
def test_the_gpu_benchmark_in_small_without_a_gpu() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--side", "256", "--tokens", "400"]
    done = subprocess.run([*command, "--rounds", "1"], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [
        line for line in done.stdout.splitlines() if re.match(r"\| .*(titles|docstrings|articles) \|", line)
    ]
    assert len(rows) == 9 + 3 + 3, done.stdout
    assert all(float(row.split("|")[-2]) > 0.999 for row in rows), rows


@pytest.mark.full
def test_changes_between_nights_in_small() -> None:
    command = [sys.executable, "-m", "benchmarks.changes", "--rows", "1600", "--changed", "16"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.split("|")[2:5]] for line in done.stdout.splitlines()[2:]]
    assert rows == [["1,600", "0", "0"], ["1,600", "200", "16"], ["1,600", "3,200", "16"]]
