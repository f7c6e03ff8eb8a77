"""Tests `ray job submit` on a cluster of its own: real processes, which are ended by their process group."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import cluster
from tests.conftest import read_dataset, write_config

Job = Callable[..., dict[str, Any]]


@pytest.mark.full
def test_a_submitted_job_is_done_and_a_wrong_one_says_why(job: Job, tmp_path: Path) -> None:
    config = str(write_config(tmp_path / "job.yaml", job()))
    command = ["--working-dir", ".", "--", "python", "-m", "jobs.embed", config]
    with cluster(tmp_path / "ray.log") as ray:
        ended = ray.submit(*command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert read_dataset(tmp_path / "out").column("key").to_pylist() == list(range(60))

        ended = ray.submit("--submission-id", "wrong", *command, "--set", "model.max_tokens=64")
        assert ended.returncode == 1  # Ray reports only this
        assert "model.max_tokens: 512 there, 64 here" in ended.stdout
        assert "exit 5: " in ended.stdout
        # What docs/scheduling.md says of the API, and so of a RayJob's status.
        told = ray.told("wrong")
        assert (told["status"], told["driver_exit_code"]) == ("FAILED", 5)
        assert re.search(r"\nexit 5: .*: was made by another config; .*\n?$", told["message"])
