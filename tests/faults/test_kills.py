"""Tests random SIGKILLs: whatever dies, the last line says why, and the rows are exact after another run.

`pytest -m slow -s tests/faults/test_kills.py` prints a table of exit codes by target; KILLS in the
environment says how many times each is killed, and TARGETS ("raylet,replica") picks some.
"""

import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ExitCode
from tests.faults.test_driver import assert_exact, config, resume, shards, start

__all__ = ["config"]
TASK = re.compile(r"ray::(run_read|run_write|.*[Rr]ead|.*[Ww]rite|MapBatches|_map_task)")
TITLES: dict[str, Callable[[str], bool]] = {
    "raylet": lambda title: title == "raylet",
    "GCS": lambda title: title == "gcs_server",
    "dashboard agent": lambda title: title == "ray::DashboardAgent",
    "runtime environment agent": lambda title: title == "ray::RuntimeEnvAgent",
    "worker": lambda title: bool(TASK.match(title)),
    "replica": lambda title: title.startswith("ray::MapWorker"),
    "heartbeat actor": lambda title: title.startswith("ray::LivenessTracker"),
}
"""Ray's processes, by the titles that they give themselves."""
TARGETS = ("driver", *TITLES)
LAST = re.compile(r"exit 4: (.*)")
SECONDS = 150
"""The longest that a run may take to end after a kill."""


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        first, *more = process.cmdline() or [""]  # it begins, or has ended
        return (
            process.name() if first.endswith(("/raylet", "/gcs_server")) else " ".join([first, *more]).strip()
        )
    return ""


def found(run: psutil.Process, target: str) -> list[psutil.Process]:
    """Finds the processes of a run that a target names."""
    with suppress(psutil.NoSuchProcess):
        if target == "driver":
            return run.children()
        return [each for each in run.children(recursive=True) if TITLES[target](title(each))]
    return []


def killed(
    run: subprocess.Popen[str], target: str, seconds: float, begun: Callable[[], bool], chance: random.Random
) -> list[psutil.Process]:
    """Sends SIGKILL to a target, some time after the start or as soon as there is one.

    Args:
        begun: tells whether the time has begun.

    Returns:
        All processes of the run by then; none if the run had ended before.
    """
    while not begun() and run.poll() is None:
        time.sleep(0.05)
    time.sleep(seconds)
    itself = psutil.Process(run.pid)
    while run.poll() is None:
        if targets := found(itself, target):
            all_of_it = itself.children(recursive=True)
            with suppress(psutil.NoSuchProcess):
                chance.choice(targets).kill()
                return all_of_it
        time.sleep(0.02)
    return []


def alive(processes: Iterable[psutil.Process]) -> list[str]:
    return [title(each) for each in processes if each.is_running() and each.status() != "zombie"]


def trial(
    job: Path, output: Path, target: str, seconds: float | None, chance: random.Random
) -> tuple[int, str, float] | None:
    """Kills a target of a run, and runs the job again.

    Args:
        seconds: the time from the start to the kill; None: until there is a shard.

    Returns:
        Exit code, last line, and seconds from the kill to the end; None if the run had ended before the kill.
    """
    run = start(job)
    processes = killed(run, target, seconds or 0, lambda: seconds is not None or bool(shards(output)), chance)
    since = time.monotonic()
    _, log = run.communicate(timeout=SECONDS)
    took = time.monotonic() - since
    if not processes:
        return None
    last = log.splitlines()[-1]
    assert alive(processes) == [], log
    assert run.returncode in (ExitCode.DONE, ExitCode.RETRYABLE), log
    if run.returncode:
        assert LAST.fullmatch(last), log
    else:
        assert_exact(output)
    before = shards(output)
    resume(job)
    assert before.items() <= shards(output).items(), "a finished shard was written again"
    assert_exact(output)
    return run.returncode, last if run.returncode else "", took


def one_kill(
    make: Callable[[str], Path], folder: Path, target: str, seconds: float | None, chance: random.Random
) -> tuple[int, str, float]:
    name = target.replace(" ", "-").replace("'", "")
    for _ in range(8):
        ended = trial(make(name), folder / name, target, seconds, chance)
        shutil.rmtree(folder / name, ignore_errors=True)
        if ended:
            return ended
        seconds = seconds and seconds / 2
    pytest.skip(f"a private Ray has not got a {target}")


@pytest.mark.full
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "driver",
            r"the driver was killed \(SIGKILL: memory ran out, or somebody did it\); run again to resume.*",
        ),
        ("raylet", r"Ray's raylet died.*"),
    ],
)
def test_whatever_is_killed_is_named(
    config: Callable[[str], Path], tmp_path: Path, target: str, said: str
) -> None:
    code, last, _ = one_kill(config, tmp_path, target, None, random.Random(0))
    assert code == ExitCode.RETRYABLE
    assert re.fullmatch(f"exit 4: {said}", last), last


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(0)
def test_the_table_of_kills(config: Callable[[str], Path], tmp_path: Path) -> None:
    chance = random.Random()
    calm = time.monotonic()
    assert start(config("calm")).wait() == ExitCode.DONE
    calm = time.monotonic() - calm
    table: defaultdict[str, list[tuple[int, str, float]]] = defaultdict(list)
    for _ in range(int(os.environ.get("KILLS", "40"))):
        for target in os.environ.get("TARGETS", ",".join(TARGETS)).split(","):
            table[target].append(one_kill(config, tmp_path, target, chance.uniform(0, calm), chance))
            print(target, *table[target][-1], flush=True)
    print(
        "\n| killed | times | code 0 | code 4 | seconds to the end | last lines |\n|---|---|---|---|---|---|"
    )
    for target, ends in table.items():
        codes = Counter(code for code, *_ in ends)
        reasons = Counter(re.split(r"[;(]", last)[0].strip() for _, last, _ in ends if last)
        told = "; ".join(f"{count} times `{reason}`" for reason, count in reasons.most_common())
        slowest = max(seconds for *_, seconds in ends)
        print(f"| {target} | {len(ends)} | {codes[0]} | {codes[4]} | at most {slowest:.0f} | {told} |")
