"""The command line: what it prints, and what it ends with."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.errors import ExitCode
from tests.conftest import write_config

Job = Callable[..., dict[str, Any]]


@pytest.fixture
def written(job: Job, tmp_path: Path) -> Path:
    return write_config(tmp_path / "job.yaml", job())


def test_plan_says_what_would_be_done_and_does_nothing(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(written), "--json"]) == ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert (shown["files"], shown["splits"], shown["pending"], shown["rows counted"]) == (3, 6, 6, 60)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_run_plan_and_status_agree(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(written), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["state"] == "not started"
    assert cli.main(["run", str(written), "--json"]) == ExitCode.DONE
    summary = json.loads(capsys.readouterr().out)
    assert (summary["code"], summary["rows"], summary["complete"]) == (0, 60, True)
    assert cli.main(["status", str(written), "--json"]) == ExitCode.DONE
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["done"], status["rows"], status["attempts"]) == ("complete", 6, 60, 1)
    assert status["it ended"] == "exit 0: complete"
    assert cli.main(["plan", str(written), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["pending"] == 0


@pytest.mark.usefixtures("ray_cluster")
def test_a_failed_file_is_the_last_line_and_stands_in_status(
    written: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "2.parquet").write_bytes(b"nonsense")
    assert cli.main(["run", str(written)]) == ExitCode.INCOMPLETE
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("exit 3: 1 of the source's files failed: docs/2.parquet: is no whole Parquet file")
    assert cli.main(["status", str(written), "--json"]) == ExitCode.DONE
    status = json.loads(capsys.readouterr().out)
    assert status["it ended"] == last
    assert list(status["failed files"]) == ["docs/2.parquet"]


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["run", "nowhere.yaml"], "exit 2: nowhere.yaml: no such config file"),
        (["run", "{config}", "--set", "model.name=no/model"], "the Hub does not give it"),
        (["run", "{config}", "--set", "source.docs.path=/nowhere/*.parquet"], "no file here"),
        (["plan", "{config}", "--set", "model.max_tokens=4096"], "more than the model has positions"),
        (["plan", "{config}", "--set", "model.poolin=mean"], "did you mean pooling?"),
    ],
)
def test_user_errors_are_one_message_without_traceback(
    written: Path, arguments: list[str], last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main([argument.replace("{config}", str(written)) for argument in arguments])
    shown = capsys.readouterr().err
    assert code == ExitCode.CONFIG
    assert last in shown.splitlines()[-1]
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "nowhere.yaml", "--debug"]) == ExitCode.CONFIG
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [["-m", "pipeline", "run"], ["-m", "jobs.embed"]])
def test_both_entry_points_are_the_same_command(entry: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, *entry, "nowhere.yaml"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (2, "exit 2: nowhere.yaml: no such config file\n")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, shown in (("--help", "exit codes: 0 done"), ("--version", "0.1.0")):
        with pytest.raises(SystemExit, match="0"):
            cli.main([flag])
        assert shown in capsys.readouterr().out


@pytest.mark.timeout(600)
def test_a_night_is_of_a_series_and_of_a_date(job: Job, tmp_path: Path, written: Path) -> None:
    def nightly(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs.nightly", str(config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = nightly(written, "--run-date", "2026-11-25")
    assert (done.returncode, "needs {run_date}" in done.stderr) == (ExitCode.CONFIG, True)
    values = job(output={"path": str(tmp_path / "series/{run_date}")}, reuse={"base": "latest"})
    series = write_config(tmp_path / "nightly.yaml", values)
    done = nightly(series)
    assert (done.returncode, "--run-date: a nightly job needs its date" in done.stderr) == (
        ExitCode.CONFIG,
        True,
    )
    assert not (tmp_path / "series").exists()
    for date in ("2026-11-25", "2026-11-26"):
        done = nightly(series, "--run-date", date)
        assert done.returncode == ExitCode.DONE, done.stderr
        assert json.loads((tmp_path / "series/LATEST.json").read_text())["dataset"] == date
    shown = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}
    assert (shown["copied"], shown["embedded"], shown["gone"]) == ("60", "0", "0")
