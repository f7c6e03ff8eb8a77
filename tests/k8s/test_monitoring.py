"""Tests of metrics, dashboard and alerts: names exist, rules fire, and a real Prometheus watches a job."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from ray.util import get_node_ip_address

from pipeline.dataset.record import COUNTERS
from pipeline.embed.on_ray.cluster import KEEP_WORKERS
from tests.clusters import ROOT, Cluster, cluster
from tests.conftest import texts, write_config
from tests.faults.poison import HANG, runtime
from tests.s3.server import free_ports
from tests.tools import program

Job = Callable[..., dict[str, Any]]
MONITORING = Path(__file__).parents[2] / "k8s" / "monitoring"
OTHERS = ("splits", "stage_seconds", "storage_requests", "storage_retries")
KNOWN = {f"ray_embed_{name}_total" for name in (*COUNTERS, *OTHERS)} | {
    f"ray_embed_{name}" for name in ("pending_splits", "failed_splits", "quiet_seconds")
}
DRIVER = """
import sys, ray
from pipeline import cli
ray.init(address=sys.argv[1], log_to_driver=False)
print("exit code", cli.main(["run", sys.argv[2], "--quiet"]), flush=True)
sys.stdin.read()
"""
RARE = {f"ray_embed_{name}_total" for name in ("storage_retries", "reused", "unknown_tokens", "null_ids")}
"""Metrics that appear with their first count; a job on local files without a base, of good ids and texts,
has none of them."""


def expressions() -> list[str]:
    """Returns every query of the dashboard and of the rules."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]


def rules() -> dict[str, Any]:
    """Returns the alert rules, as Prometheus reads them."""
    content: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    return content


def test_every_query_names_a_metric_that_exists_and_every_metric_is_asked_for() -> None:
    asked = {name for query in expressions() for name in re.findall(r"ray_embed_\w+", query)}
    assert asked == KNOWN


def test_the_rules_are_rules(tmp_path: Path) -> None:
    promtool = program("promtool", "Debian's prometheus")
    (tmp_path / "rules.yml").write_text(yaml.dump(rules()))
    subprocess.run([promtool, "check", "rules", str(tmp_path / "rules.yml")], check=True, capture_output=True)


RISING = {
    "EmbeddingStalled": ("page", {"ray_embed_quiet_seconds": "0+60x60"}),
    "EmbeddingRejectsMany": (
        "warning",
        {"ray_embed_rejects_total": "0+20x60", "ray_embed_rows_total": "0+80x60"},
    ),
    "EmbeddingStorageRetriesMany": (
        "warning",
        {"ray_embed_storage_retries_total": "0+30x60", "ray_embed_storage_requests_total": "0+99x60"},
    ),
    "EmbeddingSplitsFail": ("warning", {"ray_embed_splits_total": "0+1x60"}),
}
CALM = {
    "ray_embed_quiet_seconds": "5+0x60",
    "ray_embed_rejects_total": "0+1x60",
    "ray_embed_rows_total": "0+80x60",
    "ray_embed_storage_retries_total": "0+1x60",
    "ray_embed_storage_requests_total": "0+99x60",
    "ray_embed_splits_total": "0+1x60",
}
"""Samples of a minute each: some for which an alert must fire, and some for which none may."""


def _played(name: str, series: dict[str, str], severity: str | None) -> dict[str, Any]:
    labels = {"dataset": "d", "severity": severity}
    fired = [{"exp_labels": labels}] if severity else []
    outcome = "failed" if severity else "done"
    values = [
        {"series": f'{metric}{{dataset="d",outcome="{outcome}"}}', "values": each}
        for metric, each in series.items()
    ]
    test = {"eval_time": "40m", "alertname": name, "exp_alerts": fired}
    return {"interval": "1m", "input_series": values, "alert_rule_test": [test]}


def test_alerts_fire_where_they_should_and_nowhere_else(tmp_path: Path) -> None:
    """promtool checks this: it plays series of samples against the rules."""
    promtool = program("promtool", "Debian's prometheus")
    (tmp_path / "rules.yml").write_text(yaml.dump(_without_annotations(rules())))
    tests = [_played(name, series, severity) for name, (severity, series) in RISING.items()]
    tests += [_played(name, CALM, None) for name in RISING]
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.dump(content))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = [rule["alert"] for group in rules()["groups"] for rule in group["rules"]]
    assert sorted(alerts) == sorted(RISING)


def _without_annotations(content: dict[str, Any]) -> dict[str, Any]:
    """Removes the texts of alerts: they are for people, and a test would break with each change of a word."""
    return {
        "groups": [
            group
            | {"rules": [{k: v for k, v in rule.items() if k != "annotations"} for rule in group["rules"]]}
            for group in content["groups"]
        ]
    }


@contextmanager
def prometheus(target: str, folder: Path, rules: dict[str, Any] | None = None) -> Iterator[str]:
    """Runs a Prometheus that scrapes Ray and evaluates rules each second; yields its URL."""
    binary = program("prometheus", "Debian's prometheus")
    scrape = {"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    (folder / "rules.yml").write_text(yaml.dump(rules or {}))
    content = {
        "global": {"evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yml").write_text(yaml.dump(content))
    [port] = free_ports(1)
    server = subprocess.Popen(
        [binary, f"--config.file={folder}/prometheus.yml",
         f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _query(url: str, expression: str) -> list[Any]:
    found: list[Any] = _ask(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")["result"]
    return found


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)["data"]


@pytest.mark.timeout(300)
@pytest.mark.full
def test_prometheus_sees_a_job_run(job: Job, corpus: Path, tmp_path: Path) -> None:
    """It has its own Ray: an exporter with metrics of other jobs takes longer than a second to answer."""
    rows = [" ", *texts(39), "word " * 2000]  # a reject, and a truncated text
    pq.write_table(pa.table({"key": range(41), "text": rows, "topic": ["t"] * 41}), corpus / "3.parquet")
    config = write_config(tmp_path / "job.yaml", job())
    environment = KEEP_WORKERS | {"RAY_metrics_report_interval_ms": "1000"}
    with ExitStack() as stack:
        ray = stack.enter_context(cluster(tmp_path / "log", environment=environment))
        url = stack.enter_context(prometheus(f"{get_node_ip_address()}:{ray.metrics}", tmp_path))
        stack.enter_context(_driven(ray, config))
        _look(url, f'{{dataset="{tmp_path}/out"}}')


@contextmanager
def _driven(ray: Cluster, config: Path) -> Iterator[None]:
    """Runs a job and keeps its driver alive: workers that have yet to report would end with the driver."""
    command = [sys.executable, "-c", DRIVER, ray.gcs, str(config)]
    driver = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ray.environment
    )
    try:
        assert driver.stdout
        assert "exit code 0\n" in driver.stdout  # reads up to that line
        yield
    finally:
        driver.kill()
        driver.wait()


def _look(prometheus: str, series: str) -> None:
    moved = f"count_over_time(ray_embed_pending_splits{series}[1m]) > 1"
    wanted = {f"{name}{series}" for name in KNOWN - RARE} | {moved}
    wanted |= {f"sum(ray_embed_rows_total{series}) == 100", f"sum(ray_embed_rejects_total{series}) == 1"}
    assert _unseen(prometheus, wanted) == set()
    stages = {
        each["metric"]["stage"] for each in _query(prometheus, f"ray_embed_stage_seconds_total{series}")
    }
    assert stages == {"read", "tokenize", "encode", "write", "idle"}


@pytest.mark.full
@pytest.mark.timeout(300)
def test_an_alert_fires_on_a_job_that_stalls(job: Job, corpus: Path, tmp_path: Path) -> None:
    """Ten minutes of silence are too long for a test, so only the rule's two times are shortened."""
    pq.write_table(pa.table({"key": [0], "text": [f"into {HANG}"], "topic": ["t"]}), corpus / "0.parquet")
    config = write_config(tmp_path / "job.yaml", job(compute={"watchdog_minutes": 0.75}))
    command = [f"--runtime-env-json={runtime()}", "--", "python", "-m", "jobs.embed", str(config)]
    firing: list[Any] = []
    with ExitStack() as stack:
        ray = stack.enter_context(cluster(tmp_path / "log"))
        target = f"{get_node_ip_address()}:{ray.metrics}"
        url = stack.enter_context(prometheus(target, tmp_path, _impatient(rules())))
        started = ray.submit("--no-wait", *command)
        assert started.returncode == 0, started.stdout
        until = time.monotonic() + 120
        while not firing and time.monotonic() < until:
            time.sleep(1)
            firing = [each for each in _ask(f"{url}/api/v1/alerts")["alerts"] if each["state"] == "firing"]
    assert [each["labels"]["alertname"] for each in firing] == ["EmbeddingStalled"]
    assert firing[0]["labels"]["dataset"] == f"{tmp_path}/out"


def _unseen(url: str, expressions: set[str]) -> set[str]:
    """Returns queries that still find nothing after a while: Ray's exporter lags by ten seconds or more."""
    until = time.monotonic() + 30
    while expressions and time.monotonic() < until:
        time.sleep(1)
        expressions = {each for each in expressions if not _query(url, each)}
    return expressions


def _impatient(content: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(content)
    assert "ray_embed_quiet_seconds) > 600" in text
    shorter = text.replace("ray_embed_quiet_seconds) > 600", "ray_embed_quiet_seconds) > 10")
    found: dict[str, Any] = json.loads(shorter)
    for group in found["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if rule["alert"] == "EmbeddingStalled":
                rule["for"] = "1s"
    return found
