"""Tests Ray's own messages: they go to a named file, and likely reasons are shown when Ray gives up."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.embed.on_ray import ray_log
from pipeline.embed.on_ray.cluster import stopped
from pipeline.errors import ExitCode

LOG = """\
[2026-11-25 13:35:42,630 E 8327 8651] core_worker.cc:2465: Actor has arguments in the object store
(raylet) [2026-11-25 13:36:00,000 E 1 1] 1 Workers killed due to memory pressure (OOM)
PID\tMEM(GB)\tCOMMAND
42\t7.5\tpython killed.py --password=hunter2
(raylet) A worker died or was killed while executing a task by an unexpected system error.
(raylet) A worker died or was killed while executing a task by an unexpected system error.
\x1b[33m(raylet)\x1b[0m The node died.
"""


@pytest.fixture
def fresh() -> Iterator[None]:
    ray_log._file.cache_clear()
    yield
    ray_log._file.cache_clear()


def test_when_ray_gives_up_its_file_and_the_reason_are_named(
    fresh: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline")
    with ray_log.aside():
        os.write(2, LOG.encode())
    with ray_log.aside():
        os.write(1, b"and more\n")
    (said,) = caplog.messages  # one file per process
    path = said.removeprefix("Ray's own messages: ")
    error = stopped(RuntimeError("the object\nis lost"))
    assert error.exit_code == ExitCode.RETRYABLE
    assert str(error).splitlines() == [
        f"Ray ended the job (got the object is lost); run again to resume; Ray's own messages: {path}",
        "  (raylet) [2026-11-25 13:36:00,000 E 1 1] 1 Workers killed due to memory pressure (OOM)",
        "  (raylet) A worker died or was killed while executing a task by an unexpected system error.",
        "  (raylet) The node died.",
    ]
    Path(path).unlink()  # as a cleaner of temporary files does
    assert str(stopped(RuntimeError("lost"))).endswith(path)


def test_where_ray_was_there_before_no_file_is_named(fresh: None) -> None:
    assert str(stopped(RuntimeError("lost"))) == "Ray ended the job (got lost); run again to resume"
