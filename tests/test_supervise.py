"""Tests the parent that has the last word, with small children in place of a driver and of Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import supervise
from pipeline.errors import STOPPED
from tests.catalogue import assert_printed, entries

PRELUDE = """
import os, signal, subprocess, sys, time
from pipeline import supervise
from pipeline.supervise import supervised, tell

def ended(code, reason):
    print(f"exit {code}: {reason}", file=sys.stderr)
    tell(code=code, reason=reason)
    return code

def sleeper():
    return subprocess.Popen(["sleep", "300"])

def ready():
    print("ready", flush=True)

def work():
    try:
        return job()
    except SystemExit:
        return ended(4, "stopped; run again to resume")

def wait():
    ready()
    time.sleep(60)
"""
CASES = {
    "The driver was killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "A process of Ray's died": """
raylet = sleeper()
tell(log="/tmp/ray.log", needs=[("raylet", raylet.pid)])
time.sleep(0.5)
raylet.kill(); time.sleep(0.5)
os._exit(1)
""",
    "A library ended the driver": "os._exit(1)",
    "Stopped twice": """
try:
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
finally:
    time.sleep(1.2)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
""",
}
"""The jobs that end as docs/errors.md says, by its headings."""
KILLED = "exit 4: the driver was killed (SIGKILL: memory ran out, or somebody did it); run again to resume"


class Run:
    """A supervised job, by the text of its function."""

    def __init__(self, job: str, environment: dict[str, str]) -> None:
        body = "\n    ".join(job.strip().splitlines())
        script = f"{PRELUDE}\ndef job():\n    {body}\n\nsys.exit(supervised(work))\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | environment, start_new_session=True,
        )  # fmt: skip

    def ready(self) -> psutil.Process:
        """Waits until the job says so; returns the process that does the work."""
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"
        return psutil.Process(self.process.pid).children()[0]

    def end(self) -> tuple[int, list[str]]:
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said.splitlines()


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """Heeds the signals that whoever started the tests may ignore, as `nohup` does: children inherit that."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGTERM)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], Run]:
    return lambda job: Run(job, {supervise.TERMINATION[0]: str(tmp_path / "termination")})


def test_a_command_that_ends_has_said_so_itself(start: Callable[[str], Run], tmp_path: Path) -> None:
    assert start('return ended(3, "a file failed")').end() == (3, ["exit 3: a file failed"])
    assert (tmp_path / "termination").read_text() == "exit 3: a file failed"
    assert start('tell(code=0, reason="complete")\nreturn 0').end() == (0, [])
    assert (tmp_path / "termination").read_text() == "exit 0: complete"


def test_a_termination_message_is_as_long_as_kubernetes_keeps(
    start: Callable[[str], Run], tmp_path: Path
) -> None:
    start('return ended(2, "é" * 9000)').end()
    assert 4000 < (tmp_path / "termination").stat().st_size <= 4096
    (tmp_path / "termination").read_text()  # whole characters


def test_a_termination_message_that_can_not_be_written_changes_nothing(tmp_path: Path) -> None:
    run = Run('return ended(3, "a file failed")', {supervise.TERMINATION[0]: str(tmp_path)})
    assert run.end() == (3, ["exit 3: a file failed"])


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_the_page_says(start: Callable[[str], Run], name: str) -> None:
    code, said = start(CASES[name]).end()
    entry = entries()[name]
    assert code == entry.code
    assert_printed(entry, "\n".join(said))


def test_a_driver_that_is_killed_is_named(start: Callable[[str], Run], tmp_path: Path) -> None:
    run = start("wait()")
    run.ready().kill()
    assert run.end() == (4, [KILLED])
    assert (tmp_path / "termination").read_text() == KILLED


def test_a_driver_that_crashes_is_named(start: Callable[[str], Run]) -> None:
    crash = start('tell(log="/tmp/ray.log")\nos.kill(os.getpid(), signal.SIGSEGV)').end()
    wanted = "exit 4: the driver was ended by SIGSEGV; run again to resume; Ray's own messages: /tmp/ray.log"
    assert crash == (4, [wanted])


def test_a_process_of_rays_that_dies_first_is_named(start: Callable[[str], Run]) -> None:
    job = """
first, other = sleeper(), sleeper()
tell(needs=[("raylet", other.pid), ("dashboard agent", first.pid)])
time.sleep(0.5)
first.kill(); time.sleep(0.3); other.kill(); time.sleep(0.3)
os._exit(1)
"""
    code, said = start(job).end()
    assert (code, said) == (
        4, ["exit 4: Ray's dashboard agent died, and the driver with it; run again to resume"],
    )  # fmt: skip
    forgotten = job.replace("first.kill()", "tell(needs=None); first.kill()")
    assert start(forgotten).end() == (
        4, ["exit 4: a library ended the driver with exit code 1; run again to resume"],
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("whom", ["parent", "group", "both, one by one", "driver"])
def test_a_request_to_stop_is_one_request_however_often_it_arrives(
    start: Callable[[str], Run], number: signal.Signals, whom: str
) -> None:
    """A terminal and `timeout` signal the group; `ray job stop` signals each process."""
    run = start("wait()")
    driver = run.ready()
    if whom == "group":
        os.killpg(run.process.pid, number)
    if whom in ("parent", "both, one by one"):
        run.process.send_signal(number)
    if whom in ("both, one by one", "driver"):
        driver.send_signal(number)
    assert run.end() == (4, [f"exit 4: {STOPPED}"])


def test_a_stop_before_the_command_has_begun_has_a_last_line_too() -> None:
    early = f"{PRELUDE}\ndef work():\n    os.kill(os.getppid(), signal.SIGTERM)\n    time.sleep(30)\n"
    ended = subprocess.run(
        [sys.executable, "-c", f"{early}\nsys.exit(supervised(work))"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (4, f"exit 4: {STOPPED}\n")


def test_a_second_request_to_stop_kills(start: Callable[[str], Run]) -> None:
    run = start("""
try:
    wait()
finally:
    time.sleep(60)
""")
    run.ready()
    run.process.send_signal(signal.SIGTERM)
    time.sleep(supervise.AGAIN_SECONDS + 0.2)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == (4, ["exit 4: killed by the second request to stop; run again to resume"])


def test_what_is_ignored_stays_ignored(start: Callable[[str], Run]) -> None:
    """It is so under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = start('ready()\ntime.sleep(1)\nreturn ended(0, "complete")')
    finally:
        signal.signal(signal.SIGHUP, before)
    run.ready()
    os.killpg(run.process.pid, signal.SIGHUP)
    assert run.end() == (0, ["exit 0: complete"])


def test_the_work_ends_with_its_parent(start: Callable[[str], Run]) -> None:
    run = start("wait()")
    driver = run.ready()
    run.process.kill()
    assert run.end() == (-signal.SIGKILL, [f"exit 4: {STOPPED}"])
    assert psutil.wait_procs([driver], timeout=10)[1] == []


def test_what_a_dead_driver_left_behind_is_ended(start: Callable[[str], Run]) -> None:
    """Its children's children are orphans by then."""
    run = start('subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300"])\ntime.sleep(0.3)\nwait()')
    driver = run.ready()
    left = driver.children(recursive=True)
    assert len(left) >= 2
    driver.kill()
    assert run.end() == (4, [KILLED])
    assert not any(each.is_running() for each in left)


def test_a_command_of_one_process_tells_nobody() -> None:
    supervise.tell(code=0)


def test_the_parent_is_small() -> None:
    """It must not load what only the work needs: the time of a start and the memory would count twice."""
    script = "import sys, pipeline.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"ray", "torch", "pyarrow", "numpy", "pipeline.cli", "asyncio", "subprocess", "rich"}
    assert not heavy & set(loaded.split())
