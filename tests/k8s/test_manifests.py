"""Tests that every manifest of the base and each overlay is valid by its schema and across its fields."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.manifests import CRDS, RENDERED, Manifest, problems, render


@pytest.mark.parametrize("folder", RENDERED)
def test_a_folder_is_sound(folder: str) -> None:
    assert problems(render(folder)) == []


def test_each_makes_what_it_is_for() -> None:
    kinds = {folder: [manifest["kind"] for manifest in render(folder)] for folder in RENDERED}
    assert {"Namespace", "Role", "RayJob", "CronJob", "NetworkPolicy"} <= set(kinds["base"])
    assert "RayCluster" in kinds["cluster"]
    assert "RayCronJob" in kinds["overlays/raycronjob"]
    assert not {"CronJob", "RayJob"} & set(kinds["overlays/raycronjob"])
    assert "CronJob" not in kinds["overlays/once"]


def test_the_template_waits_and_a_single_job_does_not() -> None:
    assert _one("base", "RayJob")["spec"]["suspend"] is True
    assert _one("overlays/once", "RayJob")["spec"]["suspend"] is False
    assert _one("overlays/raycronjob", "RayCronJob")["spec"]["jobTemplate"]["suspend"] is False


def test_the_long_lived_cluster_is_the_jobs() -> None:
    assert _one("cluster", "RayCluster")["spec"] == _one("cluster", "RayJob")["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("folder", ["base", "cluster"])
def test_the_head_runs_nothing_else_and_workers_come_from_nothing(folder: str) -> None:
    spec = _one(folder, "RayJob")["spec"]["rayClusterSpec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["authOptions"] == {"mode": "token"}
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0, 0]


def _one(folder: str, kind: str) -> Manifest:
    [found] = [manifest for manifest in render(folder) if manifest["kind"] == kind]
    return found


def _cluster(job: Manifest) -> Any:
    return job["spec"]["rayClusterSpec"]


def _head(job: Manifest) -> Any:
    return _cluster(job)["headGroupSpec"]["template"]["spec"]


def _workers(job: Manifest) -> Any:
    return _cluster(job)["workerGroupSpecs"]


def _first(job: Manifest) -> Any:
    return _head(job)["containers"][0]


KEY = {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}
NO_CONFIG, NO_MODULE = "python -m jobs.nightly /app/configs/night.yaml", "python -m jobs.nightli"
BAD_CONFIG = "source: {a: {path: x, colum: y}}"
Mistake = Callable[[dict[str, Manifest]], Any]
MISTAKES: dict[str, tuple[Mistake, str]] = {
    "a field of no schema": (lambda m: m["RayJob"]["spec"].update(backofLimit=3), "backofLimit"),
    "a wrong type": (lambda m: m["CronJob"]["spec"].update(schedule=3), "schedule"),
    "a wrong choice": (lambda m: _cluster(m["RayJob"])["authOptions"].update(mode="none"), "none"),
    "more at least than at most": (lambda m: _workers(m["RayJob"])[0].update(minReplicas=99), "not within"),
    "an image of no version": (lambda m: _first(m["RayJob"]).update(image="a/b:latest"), "not pinned"),
    "no requests": (lambda m: _first(m["RayJob"]).pop("resources"), "has no requests"),
    "a secret's value": (lambda m: _first(m["RayJob"])["env"].append(KEY), "KEY has its value here"),
    "root": (lambda m: _head(m["RayJob"])["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "an account that is not there": (
        lambda m: _head(m["RayJob"]).update(serviceAccountName="x"),
        "Account x",
    ),
    "a config that is not there": (lambda m: m["RayJob"]["spec"].update(entrypoint=NO_CONFIG), "night.yaml"),
    "a module that is not there": (
        lambda m: m["RayJob"]["spec"].update(entrypoint=NO_MODULE),
        "does not exist",
    ),
    "a config that is wrong": (
        lambda m: m["ConfigMap"]["data"].update({"nightly.yaml": BAD_CONFIG}),
        "colum",
    ),
    "privileges": (lambda m: _first(m["RayJob"])["securityContext"].clear(), "may escalate"),
    "a secret that must be there": (
        lambda m: _head(m["RayJob"])["volumes"].append({"name": "x", "secret": {"secretName": "x"}}),
        "Secret x must be there",
    ),
    "a secret in the environment": (
        lambda m: _first(m["RayJob"])["envFrom"].append({"secretRef": {"name": "x", "optional": True}}),
        "a secret is in the environment",
    ),
    "no bound of the disk": (
        lambda m: _first(m["RayJob"])["resources"]["limits"].pop("ephemeral-storage"),
        "has no requests and limits of its disk",
    ),
    "a volume without a bound": (
        lambda m: _head(m["RayJob"])["volumes"].append({"name": "x", "emptyDir": {}}),
        "an emptyDir has no sizeLimit",
    ),
    "volumes that get the pod evicted": (
        lambda m: _head(m["RayJob"])["volumes"].append({"name": "x", "emptyDir": {"sizeLimit": "8Gi"}}),
        "hold more than its limit of 22Gi",
    ),
    "probes that start a shell": (
        lambda m: _first(m["RayJob"]).update(livenessProbe={"exec": {"command": ["bash"]}}),
        "has probes of its own",
    ),
    "a group that the driver is not told of": (
        lambda m: _workers(m["RayJob"])[0].update(maxReplicas=20),
        "EMBED_NODE_GROUPS of ray-head is ['cpu:16x7,gpu:8x7+1'], but workerGroupSpecs say ['cpu:20x7,",
    ),
    "CPUs that the driver is not told of": (
        lambda m: _workers(m["RayJob"])[1]["rayStartParams"].update({"num-cpus": "6"}),
        "gpu:8x6+1",
    ),
    "an autoscaler without a token": (
        lambda m: _cluster(m["RayJob"])["autoscalerOptions"].pop("volumeMounts"),
        "the autoscaler has no token",
    ),
    "a schedule that checks another config": (
        lambda m: m["ConfigMap"]["data"].pop("nightly.yaml"),
        "CronJob: no ConfigMap has /app/configs/nightly.yaml",
    ),
    "a priority that is not there": (
        lambda m: _head(m["RayJob"]).update(priorityClassName="x"),
        "no PriorityClass x",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_caught(name: str) -> None:
    if not CRDS.exists():
        pytest.skip(f"no CRDs of KubeRay at {CRDS}: set KUBERAY_CRDS")
    manifests = copy.deepcopy(render("base"))
    by_kind = {manifest["kind"]: manifest for manifest in reversed(manifests)}
    by_kind["ConfigMap"] = next(m for m in manifests if m["metadata"]["name"].startswith("configs"))
    plant, expected = MISTAKES[name]
    plant(by_kind)
    found = problems(manifests)
    assert any(expected in problem for problem in found), found
