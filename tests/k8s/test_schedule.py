"""Tests the night's RayJob, as the CronJob's own command makes it, against a stand-in for Kubernetes' API.

No cluster can run here, so the stand-in answers the four requests that are made, as the API does.
"""

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

from tests.k8s.manifests import ROOT, problems, render

MINUTES = 29_399_220  # 2025-11-24 03:00 UTC
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
    [template] = [manifest for manifest in render("base") if manifest["kind"] == "RayJob"]
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
    done = run(f"nightly-{MINUTES}")
    assert (done.returncode, done.stdout) == (0, "nightly-2025-11-24 is made\n"), done.stderr
    made = api.jobs["nightly-2025-11-24"]
    assert made["spec"]["suspend"] is False
    assert made["spec"]["entrypoint"].endswith("--run-date 2025-11-24")
    others = [manifest for manifest in render("base") if manifest["kind"] != "RayJob"]
    assert problems([*others, made]) == []

    again = run(f"nightly-{MINUTES}")
    assert (again.returncode, again.stdout) == (0, "nightly-2025-11-24 exists already\n")


@pytest.mark.parametrize(
    ("zone", "date"),
    [("Etc/UTC", "2025-11-24"), ("America/New_York", "2025-11-23"), ("Asia/Tokyo", "2025-11-24")],
)
def test_the_date_is_that_of_the_schedule_where_its_people_are(run: Any, zone: str, date: str) -> None:
    assert run(f"nightly-{MINUTES}", zone).stdout == f"nightly-{date} is made\n"


def test_made_by_hand_it_is_todays(run: Any) -> None:
    assert re.fullmatch(r"nightly-20\d\d-\d\d-\d\d is made\n", run("now").stdout)


def test_while_another_night_is_not_finished_it_is_refused(api: StandIn, run: Any) -> None:
    run(f"nightly-{MINUTES}")
    refused = run(f"nightly-{MINUTES + 1440}")
    assert refused.returncode == 3
    assert "nightly-2025-11-24: the job of another night is not finished" in refused.stderr
    assert "nightly-2025-11-25" not in api.jobs

    api.jobs["nightly-2025-11-24"]["status"] = {"jobDeploymentStatus": "Running"}
    assert run(f"nightly-{MINUTES + 1440}").returncode == 3
    api.jobs["nightly-2025-11-24"]["status"] = {"jobDeploymentStatus": "Failed"}
    assert run(f"nightly-{MINUTES + 1440}").returncode == 0


def test_old_nights_that_are_finished_go(api: StandIn, run: Any) -> None:
    for night in range(4):
        assert run(f"nightly-{MINUTES + 1440 * night}", more="--keep 2").returncode == 0
        api.jobs[f"nightly-2025-11-{24 + night}"]["status"] = {"jobDeploymentStatus": "Complete"}
    assert sorted(api.jobs) == ["nightly", "nightly-2025-11-26", "nightly-2025-11-27"]


@pytest.mark.parametrize("labels", [{}, {"albert-embed/run-date": "yesterday"}])
def test_a_job_without_a_date_stays_and_is_named(api: StandIn, run: Any, labels: dict[str, str]) -> None:
    by_hand = {"name": "again", "labels": {"albert-embed/night-of": "nightly"} | labels}
    api.jobs["again"] = {"metadata": by_hand}
    waits = run(f"nightly-{MINUTES}")
    assert waits.returncode == 3
    assert "again: the job of another night is not finished" in waits.stderr

    api.jobs["again"]["status"] = {"jobDeploymentStatus": "Complete"}
    for night in range(3):
        done = run(f"nightly-{MINUTES + 1440 * night}", more="--keep 1")
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines() == [
            "again: stays, because its label albert-embed/run-date is not a date; delete it by hand"
        ]
        api.jobs[f"nightly-2025-11-{24 + night}"]["status"] = {"jobDeploymentStatus": "Complete"}
    assert sorted(api.jobs) == ["again", "nightly", "nightly-2025-11-26"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(403, 2, "says 403"), (500, 4, "says 500"), (429, 4, "says 429")],
)
def test_an_api_that_refuses(api: StandIn, run: Any, status: int, code: int, message: str) -> None:
    api.failing = status
    done = run(f"nightly-{MINUTES}")
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert message in done.stderr
    assert "a-token" not in done.stderr


def test_mistakes_are_named(api: StandIn, run: Any) -> None:
    assert "no such time zone" in run("now", "Mars/Base").stderr
    del api.jobs["nightly"]
    missing = run("now")
    assert missing.returncode == 2
    assert "nightly: no such RayJob" in missing.stderr
