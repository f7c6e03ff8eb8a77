"""Checks datasets of strangers: what they name is not contacted, and bad files cost one line each."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline import cli, telemetry
from pipeline.errors import ExitCode
from pipeline.verify import verify
from tests.conftest import write_config
from tests.planted import Planted
from tests.reports import ended

Job = Callable[..., dict[str, Any]]


@pytest.fixture
def planted(job: Job, tmp_path: Path) -> Planted:
    """A dataset of 60 rows without damage."""
    ended(job())
    return Planted(tmp_path / "out")


def reconfigure(planted: Planted, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the config in dataset.json, which no digest covers."""
    path = planted.root / "dataset.json"
    content = json.loads(path.read_text())
    change(content["config"])
    path.write_text(json.dumps(content))


def test_what_a_dataset_names_is_looked_at_only_where_the_caller_says_so(
    planted: Planted,
    tmp_path: Path,
    job: Job,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Checks that by default only the dataset is opened, and no other file, not even a local one."""
    opened: list[str] = []
    telemetry.observers.append(lambda _, path: opened.append(path))
    try:
        report = verify.verify(str(planted.root))
    finally:
        telemetry.observers.pop()
    assert report.findings == []
    assert {path for path in opened if not path.startswith(str(planted.root))} == set()
    [check] = [check for check in report.checks if check.name == "source"]
    assert (check.result, "--config FILE" in check.skipped) == ("not checked", True)

    written = str(write_config(tmp_path / "job.yaml", job()))
    assert cli.main(["verify", str(planted.root), "--config", written, "--deep", "1"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "source  ok            3 files, 0 no longer as planned" in shown
    assert "deep  ok            60 rows compared" in shown

    for arguments, said in (
        (["--deep", "1"], "exit 2: --deep: needs the sources and the model; name the config"),
        (["--set", "model.max_tokens=9"], "exit 2: --set, --run-date: do not apply to a dataset"),
        (
            ["--config", written, "--set", "output.rows_per_shard=11"],
            "exit 2: --config: did not make this dataset (got output.rows_per_shard: 10 there, 11 here)",
        ),
    ):
        assert cli.main(["verify", str(planted.root), *arguments]) == ExitCode.CONFIG
        assert capsys.readouterr().err.splitlines()[-1].startswith(said)


class Asked(BaseHTTPRequestHandler):
    """A server that answers 404 and records the requests."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(f"{self.path} {dict(self.headers)}")
        self.send_error(404)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Keeps the requests out of the tests' output."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a foreign server."""
    Asked.seen.clear()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()


@pytest.mark.full
@pytest.mark.parametrize("path", ["hf://datasets/some/corpus/a.parquet", "s3://bucket/a.parquet"])
def test_a_server_that_a_dataset_names_is_asked_nothing(planted: Planted, server: str, path: str) -> None:
    """A request to the server would carry the caller's credentials."""

    def aim(told: dict[str, Any]) -> None:
        told["source"]["docs"] |= {"path": path, "options": {"endpoint_url": server}}
        told["output"] |= {"path": "s3://bucket/out", "options": {"endpoint_url": server}}
        told["model"] |= {"name": "some/model", "allow_pickle": True}

    reconfigure(planted, aim)
    content = json.loads((planted.root / "dataset.json").read_text())
    base = {"base": path.replace("a.parquet", "base")}
    (planted.root / "dataset.json").write_text(json.dumps(content | base))
    job = write_config(planted.root.parent / "job.yaml", content["config"])
    script = "import sys; from pipeline import cli; sys.exit(cli.main(sys.argv[1:]))"
    known = {
        "HF_ENDPOINT": server,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    known |= {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    for command in (["verify", str(planted.root)], ["status", str(planted.root)]):
        ran = subprocess.run(
            [sys.executable, "-c", script, *command], env=os.environ | known, capture_output=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    assert Asked.seen == []
    told = ["verify", str(planted.root), "--config", str(job)]
    subprocess.run([sys.executable, "-c", script, *told], env=os.environ | known, check=False)
    assert Asked.seen != []


DEEP = b'{"a":' * 100_000
NO_ATTEMPTS = (
    DEEP, b"[1]", b"\xff", b"{}", b'{"attempt": 1, "started": "2026-11-25T12:00:00+00:00"}',
    b'{"attempt": "a", "started": "yesterday"}', b'{"attempt": "a", "started": "2026-11-25", "code": []}',
    b'{"attempt": "a", "started": "2026-11-25", "summary": [1]}',
)  # fmt: skip


@pytest.mark.parametrize("content", NO_ATTEMPTS, ids=range(len(NO_ATTEMPTS)))
def test_what_no_attempt_left_is_named(
    planted: Planted, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (planted.root / "ledger/zzz.json").write_bytes(content)
    assert cli.main(["status", str(planted.root)]) == ExitCode.CONFIG
    assert "ledger/zzz.json: can't be read (got " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["dataset.json", "summary.json"])
def test_json_that_is_nested_too_deep_is_named(
    planted: Planted, tmp_path: Path, job: Job, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (planted.root / name).write_bytes(DEEP)
    assert cli.main(["verify", str(planted.root)]) == ExitCode.INCOMPLETE
    assert f"{name}: can't be read: is nested too deeply" in capsys.readouterr().out
    written = str(write_config(tmp_path / "job.yaml", job()))
    for command in (["report", written], ["run", written]):
        assert cli.main(command) == ExitCode.CONFIG
        assert f"{name}: can't be read (got is nested too deeply)" in capsys.readouterr().err


@pytest.mark.parametrize("moment", [1e300, float("nan"), -1e18])
def test_a_record_of_absurd_times_is_shown(planted: Planted, moment: float) -> None:
    record = planted.record(planted.shards[0])
    planted.tell(record | {"written_at": moment, "file_bytes": planted.shards[0].stat().st_size})
    assert cli.main(["status", str(planted.root)]) == ExitCode.DONE


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(
    planted: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that never ends does not block either."""
    shard = planted.shards[0]
    shard.unlink()
    os.mkfifo(shard)
    (planted.root / "summary.json").unlink()
    (planted.root / "summary.json").symlink_to("/dev/zero")
    assert cli.main(["verify", str(planted.root)]) == ExitCode.INCOMPLETE
    shown = capsys.readouterr().out
    assert f"{shard.name}: is missing" in shown  # a listing skips what is not a file
    assert "summary.json: can't be read: not a regular file" in shown
    (planted.root / "plan.parquet").unlink()
    os.mkfifo(planted.root / "plan.parquet")
    assert cli.main(["status", str(planted.root)]) == ExitCode.CONFIG


@pytest.mark.parametrize("name", ["/etc/hostname", "../../secret.parquet", "../data/part-a.parquet", ""])
def test_a_record_names_no_rejects_elsewhere(planted: Planted, tmp_path: Path, job: Job, name: str) -> None:
    shard = planted.shards[0]
    opened: list[str] = []
    planted.rewrite(
        shard, lambda table: table, rejects_file=name, rejects=1, reasons=[{"reason": "x", "rows": 1}]
    )
    telemetry.observers.append(lambda _, path: opened.append(path))
    try:
        lines = [str(finding) for finding in verify.verify(str(planted.root)).findings]
        written = str(write_config(tmp_path / "job.yaml", job()))
        assert cli.main(["report", written, "--to", str(tmp_path / "page.html")]) == ExitCode.DONE
    finally:
        telemetry.observers.pop()
    if name:
        assert any("names a file that no dataset of ours has" in line for line in lines), lines
    assert not [path for path in opened if "rejects/" in path and not path.endswith("/rejects")]
