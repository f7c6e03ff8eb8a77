"""Tests the night's RayJob, as the CronJob's own command makes it, against a stand-in for Kubernetes' API.

No cluster can run here, so the stand-in answers the four requests that are made, as the API does.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import ROOT, problems, render

TODAY = datetime.datetime.now(datetime.UTC).date()
DATES = [TODAY - datetime.timedelta(days=10 - night) for night in range(4)]
"""The dates of four nights in a row."""
MINUTES = [
    int(datetime.datetime(*date.timetuple()[:3], 3, tzinfo=datetime.UTC).timestamp()) // 60 for date in DATES
]
"""Their schedules at 03:00 UTC, as Kubernetes puts them into a Job's name."""
CONFIGS = str(ROOT / "configs")
PATH = "/apis/ray.io/v1/namespaces/embeddings/rayjobs"


class StandIn(ThreadingHTTPServer):
    """Keeps RayJobs by name, and the requests that were made."""

    def __init__(self, template: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs = {"nightly": template}
        self.asked: list[str] = []
        self.failing = 0


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.server.asked.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self) -> None:
        if self.server.failing:
            self._answer(self.server.failing, {"message": "no"})
        elif "?labelSelector=" in self.path:
            label = self.path.rpartition("labelSelector=")[2].partition("%3D")[0]
            made = [job for job in self.server.jobs.values() if label in job["metadata"].get("labels", {})]
            self._answer(200, {"items": made})
        elif job := self.server.jobs.get(self.path.rpartition("/")[2]):
            self._answer(200, job)
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        assert self.headers["Authorization"] == "Bearer a-token"
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = job["metadata"]["name"]
        self._answer(409 if name in self.server.jobs else 201, job)
        self.server.jobs.setdefault(name, job)

    def do_DELETE(self) -> None:
        self._answer(200, self.server.jobs.pop(self.path.rpartition("/")[2]))

    def log_message(self, *args: object) -> None:
        """Logs nothing."""


@pytest.fixture
def api() -> Iterator[StandIn]:
    """Serves the template, with configs where this machine has them."""
    [template] = [manifest for manifest in render("base") if manifest["kind"] == "RayJob"]
    template["spec"]["entrypoint"] = template["spec"]["entrypoint"].replace("/app/configs", CONFIGS)
    with StandIn(template) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(api: StandIn, tmp_path: Path) -> Any:
    """Returns a function that runs the CronJob's container command in a shell, against the stand-in."""
    (tmp_path / "namespace").write_text("embeddings")
    (tmp_path / "token").write_text("a-token\n")
    [cronjob] = [manifest for manifest in render("base") if manifest["kind"] == "CronJob"]
    [container] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]

    def command(job: str, zone: str = "Etc/UTC", more: str = "") -> subprocess.CompletedProcess[str]:
        [args] = container["args"]
        args = args.replace("/app/configs", CONFIGS)
        args += f" --api http://127.0.0.1:{api.server_address[1]} --account {tmp_path} {more}"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"JOB": job, "TIME_ZONE": zone, "PATH": path}
        return subprocess.run(
            [*container["command"], args],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=ROOT,
        )

    return command


def test_a_night_is_made_once_and_is_valid(api: StandIn, run: Any) -> None:
    name = f"nightly-{DATES[0]}"
    done = run(f"nightly-{MINUTES[0]}")
    assert (done.returncode, done.stdout) == (0, f"{name} is made\n"), done.stderr
    made = api.jobs[name]
    assert made["spec"]["suspend"] is False
    assert made["spec"]["entrypoint"].endswith(f"--run-date {DATES[0]}")
    made["spec"]["entrypoint"] = made["spec"]["entrypoint"].replace(CONFIGS, "/app/configs")
    others = [manifest for manifest in render("base") if manifest["kind"] != "RayJob"]
    assert problems([*others, made]) == []

    again = run(f"nightly-{MINUTES[0]}")
    assert (again.returncode, again.stdout) == (0, f"{name} exists already\n")

    made["status"] = {"jobDeploymentStatus": "Failed"}
    failed = run(f"nightly-{MINUTES[0]}")
    assert failed.returncode == 0
    assert f"{name} exists already, and has failed; `kubectl delete rayjob {name}`" in failed.stdout


@pytest.mark.parametrize(
    ("zone", "date"),
    [("Etc/UTC", DATES[1]), ("America/New_York", DATES[0]), ("Asia/Tokyo", DATES[1])],
)
def test_the_date_is_that_of_the_schedule_where_its_people_are(
    run: Any, zone: str, date: datetime.date
) -> None:
    assert run(f"nightly-{MINUTES[1]}", zone).stdout == f"nightly-{date} is made\n"


@pytest.mark.parametrize(
    "job", ["now", "by-hand", "by-hand-2", "nightly-20261127", "nightly-202611270312", f"nightly-{'9' * 50}"]
)
def test_made_by_hand_it_is_todays(run: Any, job: str) -> None:
    done = run(job)
    made = re.fullmatch(r"nightly-(.+) is made\n", done.stdout)
    assert made, done.stderr
    # The test may run over midnight.
    assert datetime.date.fromisoformat(made[1]) - TODAY <= datetime.timedelta(days=1)
    assert made[1] >= TODAY.isoformat()


def test_while_another_night_is_not_finished_it_is_refused(api: StandIn, run: Any) -> None:
    run(f"nightly-{MINUTES[0]}")
    refused = run(f"nightly-{MINUTES[1]}")
    assert refused.returncode == 3
    assert f"nightly-{DATES[0]}: the job of another night is not finished" in refused.stderr
    assert f"nightly-{DATES[1]}" not in api.jobs

    for state in ("Running", "Retrying", "Suspended"):
        api.jobs[f"nightly-{DATES[0]}"]["status"] = {"jobDeploymentStatus": state}
        assert run(f"nightly-{MINUTES[1]}").returncode == 3
    api.jobs[f"nightly-{DATES[0]}"]["status"] = {"jobDeploymentStatus": "Failed"}
    assert run(f"nightly-{MINUTES[1]}").returncode == 0


def test_old_nights_that_are_finished_go(api: StandIn, run: Any) -> None:
    for minutes, date in zip(MINUTES, DATES, strict=True):
        assert run(f"nightly-{minutes}", more="--keep 2").returncode == 0
        api.jobs[f"nightly-{date}"]["status"] = {"jobDeploymentStatus": "Complete"}
    assert sorted(api.jobs) == ["nightly", f"nightly-{DATES[2]}", f"nightly-{DATES[3]}"]


@pytest.mark.parametrize("labels", [{}, {"albert-embed/run-date": "yesterday"}])
def test_a_job_without_a_date_stays_and_is_named(api: StandIn, run: Any, labels: dict[str, str]) -> None:
    by_hand = {"name": "again", "labels": {"albert-embed/night-of": "nightly"} | labels}
    api.jobs["again"] = {"metadata": by_hand}
    waits = run(f"nightly-{MINUTES[0]}")
    assert waits.returncode == 3
    assert "again: the job of another night is not finished" in waits.stderr

    api.jobs["again"]["status"] = {"jobDeploymentStatus": "Complete"}
    for minutes, date in zip(MINUTES[:3], DATES[:3], strict=True):
        done = run(f"nightly-{minutes}", more="--keep 1")
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines() == [
            "again: stays, because its label albert-embed/run-date is not a date; delete it by hand"
        ]
        api.jobs[f"nightly-{date}"]["status"] = {"jobDeploymentStatus": "Complete"}
    assert sorted(api.jobs) == ["again", "nightly", f"nightly-{DATES[2]}"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(403, 2, "says 403"), (500, 4, "says 500"), (429, 4, "says 429")],
)
def test_an_api_that_refuses(api: StandIn, run: Any, status: int, code: int, message: str) -> None:
    api.failing = status
    done = run(f"nightly-{MINUTES[0]}")
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert message in done.stderr
    assert "a-token" not in done.stderr


def test_mistakes_are_named(api: StandIn, run: Any) -> None:
    assert "no such time zone" in run("now", "Mars/Base").stderr
    del api.jobs["nightly"]
    missing = run("now")
    assert missing.returncode == 2
    assert "nightly: no such RayJob" in missing.stderr


BAD_CONFIGS = {
    "compute: {device: gpu}": "compute.device",
    "output: {path: s3://bucket/embeddings}": "needs {run_date} as the last part of output.path",
    "output: {path: 's3://bucket/{run_date}/embeddings'}": "needs {run_date} as the last part of output.path",
    "source: [": "can't be read as YAML",
}


@pytest.mark.parametrize("text", BAD_CONFIGS)
def test_a_mistake_in_the_config_costs_no_cluster(api: StandIn, run: Any, tmp_path: Path, text: str) -> None:
    config = tmp_path / "nightly.yaml"
    if text.endswith("["):
        config.write_text(text)
    else:
        values = yaml.safe_load((ROOT / "configs" / "nightly.yaml").read_text())
        for section, fields in yaml.safe_load(text).items():
            values[section].update(fields)
        config.write_text(yaml.safe_dump(values))
    entrypoint = f"python -m jobs.nightly {config} --run-date {{run_date}}"
    api.jobs["nightly"]["spec"]["entrypoint"] = entrypoint
    refused = run("now", more=f"--config {config}")
    assert refused.returncode == 2
    assert BAD_CONFIGS[text] in refused.stderr
    assert refused.stderr.startswith("exit 2: ")
    assert list(api.jobs) == ["nightly"]


def test_the_config_is_loaded_as_the_job_loads_it(api: StandIn, run: Any) -> None:
    entrypoint = api.jobs["nightly"]["spec"]["entrypoint"]
    for override, code in (("compute.device=gpu", 2), ("compute.device=cuda", 0)):
        api.jobs["nightly"]["spec"]["entrypoint"] = f"{entrypoint} --set {override}"
        assert run("now").returncode == code


@pytest.mark.parametrize(
    ("entrypoint", "message"),
    [
        (
            "python -m jobs.nightly /app/configs/mine.yaml --run-date {run_date}",
            "not the config that the job runs",
        ),
        ("python -m jobs.nightly '/app/configs/nightly.yaml --run-date {run_date}", "is not a command"),
    ],
)
def test_a_job_of_another_config_is_refused(api: StandIn, run: Any, entrypoint: str, message: str) -> None:
    api.jobs["nightly"]["spec"]["entrypoint"] = entrypoint
    refused = run("now")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert list(api.jobs) == ["nightly"]


def test_a_night_of_a_queue_waits_for_kueue(api: StandIn, run: Any) -> None:
    api.jobs["nightly"]["metadata"]["annotations"] = {"albert-embed/queue": "embed"}
    assert run(f"nightly-{MINUTES[0]}").returncode == 0
    made = api.jobs[f"nightly-{DATES[0]}"]
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "embed"
    assert made["spec"]["suspend"] is True
