"""Tests files that come and go during a run on real Ray, and a node that never sees them."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult
from pipeline.dataset.identity import Identity
from pipeline.driver import run
from pipeline.embed import unseen
from pipeline.errors import ExitCode
from pipeline.model.check import usable_checkpoint
from tests.clusters import cluster
from tests.conftest import read_dataset, texts, write_config

Job = Callable[..., dict[str, Any]]
FILES = 9


def embed(values: dict[str, Any]) -> RunResult:
    return run.run(parse_config(values), quiet=True)


@pytest.fixture
def planned(job: Job, tmp_path: Path) -> dict[str, Any]:
    """Freezes the plan of a job of small files that share splits; failed files are allowed."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, text in enumerate(texts(FILES)):
        (folder / f"{number}.txt").write_text(text)
    # Moving a file away and back changes its inode's change time; a mount that returns does not.
    source = {"s": {"path": str(folder), "format": "text-files", "options": {"ignore_ctime": True}}}
    values = job(source=source, output={"rows_per_shard": 1000}, quality={"allow_failed_files": True})
    parsed = parse_config(values)
    model = usable_checkpoint(parsed)
    run.frozen_plan(parsed, Dataset.of(parsed), Identity.of(parsed, model), model)
    return values


@pytest.mark.full
@pytest.mark.usefixtures("ray_cluster")
def test_a_file_that_is_away_for_a_moment_is_embedded_by_the_next_run(
    planned: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in/4.txt").rename(tmp_path / "away")
    look = unseen._look_again

    def when_it_is_back(*arguments: Any) -> unseen.Found:
        (tmp_path / "away").rename(tmp_path / "in/4.txt")
        return look(*arguments)

    monkeypatch.setattr(unseen, "_look_again", when_it_is_back)
    ending = embed(planned)
    assert ending.code == ExitCode.RETRYABLE
    assert "s/in/4.txt: is there as it was planned, but a worker did not see it" in ending.reason
    assert not list(tmp_path.glob("out/data/*"))
    monkeypatch.undo()
    again = embed(planned)
    assert (again.code, again.summary["rows"], again.summary["failed_files"]) == (ExitCode.DONE, FILES, {})


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.full
def test_a_file_that_is_gone_costs_itself_where_that_is_allowed(
    planned: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "in/4.txt").rename(tmp_path / "away")
    refused = embed(planned | {"quality": {"allow_failed_files": False}})
    assert (refused.code, list(refused.summary["failed_files"])) == (ExitCode.INCOMPLETE, ["s/in/4.txt"])
    ending = embed(planned)
    assert (ending.code, list(ending.summary["failed_files"])) == (ExitCode.DONE, ["s/in/4.txt"])
    names = read_dataset(tmp_path / "out").column("source_file").to_pylist()
    assert names == [f"s/in/{number}.txt" for number in range(FILES) if number != 4]


@pytest.mark.timeout(600)
@pytest.mark.full
def test_a_node_without_the_sources_mount_is_named(job: Job, corpus: Path, tmp_path: Path) -> None:
    """An empty file system covers the corpus there, in its own name space."""
    under = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{corpus}" && exec "$@"', "sh"]
    if subprocess.run([*under, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    path = write_config(tmp_path / "blind.yaml", job())
    with cluster(tmp_path / "ray.log") as ray:
        ray.add_worker(1, under=under)
        last = ray.run("blind", f"python -m jobs.embed {path}").strip().splitlines()[-1]
    assert last.startswith(f"exit 2: {corpus}/0.parquet: a node does not see this file (got "), last
    assert "is gone since it was planned" in last
    assert "mount the same storage there, or use a URL" in last
    assert not list(tmp_path.glob("out/data/*"))
