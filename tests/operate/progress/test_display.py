"""Runs a real job in a real terminal and in a pipe; checks what people see, and that Ray is silent."""

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte
import pytest

from pipeline.errors import ExitCode
from tests.clusters import ROOT, cluster
from tests.conftest import write_config
from tests.faults.poison import KILL, runtime
from tests.faults.test_cluster import put, submit

Job = Callable[..., dict[str, Any]]
ROWS, COLUMNS = 40, 100
OURS = re.compile(r"\d\d:\d\d:\d\d \S|exit \d: ")
PACED = {
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": json.loads(runtime(PACE="0.1"))}),
    "PYTHONPATH": str(ROOT),
}
"""The variable in which `ray job submit` passes a runtime environment to the driver."""
MESSAGES = re.compile(r"Ray's own messages: (\S+)")


@pytest.fixture
def command(job: Job, tmp_path: Path) -> list[str]:
    """A run of 60 splits of one row."""
    config = write_config(tmp_path / "job.yaml", job(output={"rows_per_shard": 1}))
    return [sys.executable, "-m", "pipeline", "run", str(config)]


class Seen:
    """The output of a command to its terminal, and the screen after each part of it.

    Each split is slowed down: a fast machine does sixty splits of one row between two drawings.
    """

    def __init__(self, command: list[str]) -> None:
        self.screen, self.screens = pyte.Screen(COLUMNS, ROWS), list[str]()
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | PACED | {"TERM": "xterm-256color"},
        )
        self._slave = slave

    def follow(self, until: Callable[[], bool] | None = None) -> None:
        """Reads until the command ends, or a condition holds."""
        os.set_blocking(self.master, False)
        while not (until and until()):
            ended = self.process.poll() is not None
            try:
                part = os.read(self.master, 1 << 16)
            except BlockingIOError:
                if ended:
                    return
                time.sleep(0.05)
                continue
            self.raw += part
            self._stream.feed(part)
            self.screens.append("\n".join(line.rstrip() for line in self.screen.display).rstrip())

    def assert_left_as_it_was(self) -> None:
        """Checks that the cursor is visible again, and the terminal behaves as before."""
        assert not self.screen.cursor.hidden
        assert self.raw.rindex(b"\x1b[?25h") > self.raw.rindex(b"\x1b[?25l")
        assert termios.tcgetattr(self._slave) == self.modes

    def close(self) -> None:
        os.close(self.master)
        os.close(self._slave)


def shards(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("out/data/*.parquet")))


@pytest.mark.full
def test_in_a_terminal_a_run_is_one_display_and_then_its_outcome(command: list[str], tmp_path: Path) -> None:
    seen = Seen(command)
    seen.follow()
    assert seen.process.returncode == ExitCode.DONE, seen.screens[-1]
    at_work = [screen for screen in seen.screens if re.search(r"encode +\d at work", screen)]
    assert at_work
    for screen in at_work:
        assert screen.count("ETA ") == screen.count("tokens  ") == 1, screen  # no remains of another one
        assert screen.index("starting splits=60") < screen.index("tokens  ")
    assert any(re.search(r"encode +\d at work .*\d% busy", screen) for screen in at_work)

    *events, _ = re.split(r"\n +output  ", seen.screens[-1])
    lines = events[0].splitlines()
    assert [line for line in lines if not OURS.match(line)] == []
    assert re.search(r"60/60 splits  60/60 rows  [\d,]+ rows/s  .*0 rejects  0 failed  in \d+", events[0])
    assert " reason  complete" in seen.screens[-1]
    file = MESSAGES.search(events[0])
    assert file
    assert "core_worker" in Path(file[1]).read_text()  # the display itself writes no such message
    seen.assert_left_as_it_was()
    seen.close()


@pytest.mark.full
def test_a_run_that_is_stopped_in_a_terminal_has_the_last_word(command: list[str], tmp_path: Path) -> None:
    seen = Seen(command)
    seen.follow(until=lambda: shards(tmp_path) >= 5 or seen.process.poll() is not None)
    seen.process.send_signal(signal.SIGTERM)
    seen.follow()
    assert seen.process.returncode == ExitCode.RETRYABLE
    lines = seen.screens[-1].splitlines()
    assert lines[-1] == "exit 4: stopped; run again to resume"
    assert re.search(r"\d+/60 splits .* in \d+", lines[-2])
    assert [line for line in lines if not OURS.match(line)] == []
    seen.assert_left_as_it_was()
    seen.close()


@pytest.mark.full
def test_in_a_pipe_a_run_is_lines(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if not OURS.match(line)] == []
    assert re.search(r"\d+%  \d+/60 splits  \d+/60 rows  .* ETA \S+  (starting|busy: read)", done.stderr)
    assert re.search(r"60/60 splits  60/60 rows .* in (\d+m)?\d+s\n", done.stderr)
    assert done.stdout
    assert all(re.match(r" +[a-z]+  \S", line) for line in done.stdout.splitlines()), done.stdout


@pytest.mark.full
def test_a_quiet_run_says_nothing_but_how_it_ended(command: list[str], corpus: Path) -> None:
    (corpus / "1.parquet").write_bytes(b"nonsense")
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.INCOMPLETE
    assert [line[:7] for line in done.stderr.splitlines()] == ["failed:", "exit 3:"]
    assert done.stdout.splitlines()[0].startswith("          output  ")


@pytest.mark.timeout(600)
@pytest.mark.full
def test_after_a_fault_the_log_of_a_job_is_ours(job: Job, corpus: Path, tmp_path: Path) -> None:
    """A process is killed three times; the nodes' messages about it are in the file, not in the job's log."""
    put(corpus, 13, KILL)
    with cluster(tmp_path / "ray.log") as ray:
        said = submit(ray, write_config(tmp_path / "job.yaml", job()))
    assert "exit 3: 1 of the source's files failed: docs/1.parquet" in said, said
    assert re.search(r"\d+/6 splits  .* ETA ", said)
    file = MESSAGES.search(said)
    assert file
    assert "(raylet)" in Path(file[1]).read_text()
    assert "raylet" not in said
