"""Tests that rows are exact although the driver dies or has a rival: real processes, real signals."""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import load_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests.conftest import read_dataset, texts, write_config

Job = Callable[..., dict[str, Any]]
FILES, ROWS = 6, 40
SPLITS = FILES * 20


@pytest.fixture
def config(job: Job, corpus: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Returns a function that makes configs of a job of SPLITS small splits, by the name of their output."""
    for number in range(FILES):
        rows = range(number * ROWS, number * ROWS + ROWS)
        table = pa.table({"key": list(rows), "text": texts(ROWS, rows[0]), "topic": ["t"] * ROWS})
        pq.write_table(table, corpus / f"{number}.parquet")

    def write(output: str) -> Path:
        values = job(output={"path": str(tmp_path / output), "rows_per_shard": ROWS // 20})
        return write_config(tmp_path / f"{output}.yaml", values)

    return write


def start(config: Path) -> subprocess.Popen[str]:
    """Starts a driver with its own Ray, as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", str(config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(config: Path) -> None:
    """Runs to the end, and checks that the job is done."""
    driver = start(config)
    _, log = driver.communicate(timeout=240)
    assert driver.returncode == ExitCode.DONE, log


def resume(config: Path) -> None:
    """Does the same as `finish`, in this process, on the tests' Ray."""
    ending = run.run(load_config(str(config)), quiet=True)
    assert ending.code == ExitCode.DONE, ending.reason


def shards(output: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("data/*.parquet")
    }


def assert_exact(output: Path) -> None:
    """Checks that the dataset is committed, and has each source row once, with the vector of its text."""
    table = read_dataset(output)
    assert table.column("key").to_pylist() == list(range(FILES * ROWS))
    vectors = np.stack(table.column("embedding").to_numpy())
    assert np.isfinite(vectors).all()
    assert len(list((output / "data").iterdir())) == len(shards(output)) + 1
    assert (output / "data" / "_SUCCESS").exists()
    manifest = pq.read_table(output / "manifest.parquet")
    names = [f"part-{split_id}.parquet" for split_id in manifest.column("split_id").to_pylist()]
    assert sorted(names) == sorted(shards(output))
    assert sum(manifest.column("rows").to_pylist()) == FILES * ROWS


def reach(driver: subprocess.Popen[str], output: Path, moment: str) -> None:
    """Waits for a moment of a run: a line of its log, its first shards, or nothing at all."""
    assert driver.stderr is not None
    if moment == "some shards":
        while driver.poll() is None and len(shards(output)) < 5:
            time.sleep(0.01)
    elif moment:
        next((line for line in driver.stderr if moment in line), None)


def kill_at(driver: subprocess.Popen[str], output: Path, moment: str, seconds: float) -> bool:
    """Sends SIGKILL to the driver some time after a moment; tells whether it lived until then."""
    reach(driver, output, moment)
    time.sleep(seconds)
    lived = driver.poll() is None
    for process in psutil.Process(driver.pid).children() if lived else []:
        process.kill()  # what is killed is the process that works; its parent says so
    _, log = driver.communicate()
    lived = lived and driver.returncode != ExitCode.DONE
    assert not lived or log.splitlines()[-1].startswith("exit 4: the driver was killed (SIGKILL"), log
    return lived


def moments(kills: int, run_seconds: float) -> list[tuple[str, float]]:
    """Returns when to kill: in the middle of the splits, in the commit, in planning, at a random time."""
    chance = random.Random(kills)
    kinds = [
        lambda: ("some shards", chance.uniform(0, 0.5)),
        lambda: ("committing", chance.uniform(0, 0.03)),
        lambda: ("planning", chance.uniform(0, 0.06)),
        lambda: ("", chance.uniform(0, run_seconds)),
    ]
    return [kinds[number % len(kinds)]() for number in range(kills)]


@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_that_is_killed_among_its_splits_is_resumed_exactly(
    config: Callable[[str], Path], tmp_path: Path
) -> None:
    job, output = config("killed"), tmp_path / "killed"
    assert kill_at(start(job), output, "some shards", 0)
    before = shards(output)
    assert 0 < len(before) < SPLITS
    resume(job)
    assert before.items() <= shards(output).items(), "a finished shard was written again"
    assert_exact(output)


@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_driver_resumes_exactly(config: Callable[[str], Path], tmp_path: Path, kills: int) -> None:
    started = time.monotonic()
    finish(config("calm"))
    run_seconds = time.monotonic() - started
    assert_exact(tmp_path / "calm")
    found = []
    for number, (moment, drawn) in enumerate(moments(kills, run_seconds)):
        seconds = drawn
        output, job = tmp_path / f"killed{number}", config(f"killed{number}")
        while not kill_at(start(job), output, moment, seconds):  # it had ended before, so that was not a kill
            shutil.rmtree(output)
            seconds /= 2
        before = shards(output)
        found.append((moment or "any time", round(seconds, 3), len(before)))
        finish(job)
        assert before.items() <= shards(output).items(), "a finished shard was written again"
        assert_exact(output)
    print("\n".join(f"killed at {kill[0]} + {kill[1]} s, {kill[2]} shards" for kill in found))
    assert any(0 < count < SPLITS for *_, count in found), "no kill fell between the first shard and the last"


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.full
def test_a_driver_that_comes_to_an_output_at_which_another_works(
    config: Callable[[str], Path], tmp_path: Path, killed: bool
) -> None:
    """Both drivers work to the end, or the first one is killed meanwhile."""
    job, output = config("shared"), tmp_path / "shared"
    first = start(job)
    reach(first, output, "some shards")
    if killed:
        threading.Timer(1, first.kill).start()
    resume(job)
    _, log = first.communicate(timeout=240)
    assert first.returncode in ([-signal.SIGKILL, ExitCode.DONE] if killed else [ExitCode.DONE]), log
    assert_exact(output)
    assert len(list((output / "ledger").glob("*.json"))) == 2


@pytest.mark.full
@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_two_drivers_on_one_output_are_exact(
    config: Callable[[str], Path], tmp_path: Path, rounds: int
) -> None:
    for number in range(rounds):
        job = config(f"both{number}")
        drivers = [start(job), start(job)]
        logs = [driver.communicate(timeout=240)[1] for driver in drivers]
        assert [driver.returncode for driver in drivers] == [ExitCode.DONE] * 2, logs
        assert_exact(tmp_path / f"both{number}")
        attempts = [
            json.loads(path.read_text()) for path in (tmp_path / f"both{number}/ledger").glob("*.json")
        ]
        assert len(attempts) == 2


@pytest.mark.full
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(3000)
def test_a_driver_that_starts_while_another_is_killed(
    config: Callable[[str], Path], tmp_path: Path, rounds: int
) -> None:
    chance = random.Random(rounds)
    for number in range(rounds):
        job, output = config(f"relay{number}"), tmp_path / f"relay{number}"
        first = start(job)
        reach(first, output, chance.choice(["some shards", "planning", "committing"]))
        second = start(job)
        time.sleep(chance.uniform(0, 6))
        first.kill()
        first.communicate()
        _, log = second.communicate(timeout=240)
        assert second.returncode == ExitCode.DONE, log
        assert_exact(output)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.full
def test_sigterm_ends_a_run_that_the_next_one_resumes(config: Callable[[str], Path], tmp_path: Path) -> None:
    job = config("stopped")
    driver = start(job)
    assert driver.stderr is not None
    reach(driver, tmp_path / "stopped", "some shards")
    driver.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    log = driver.stderr.read()
    assert driver.wait(timeout=60) == ExitCode.RETRYABLE
    print(f"stopped after {time.monotonic() - stopped:.1f} s")
    assert log.splitlines()[-1] == "exit 4: stopped; run again to resume"
    before = shards(tmp_path / "stopped")
    resume(job)
    assert before.items() <= shards(tmp_path / "stopped").items()
    assert_exact(tmp_path / "stopped")
