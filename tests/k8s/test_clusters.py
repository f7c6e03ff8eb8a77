"""Tests what KubeRay, Karpenter, Kueue and the clouds' nodes ask of the manifests, beyond their schemas.

A real API server with the real operator showed most of it; a cluster is not available in tests.
"""

import datetime
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.schedule import QUEUE, QUEUED_IN, night
from tests.k8s import manifests
from tests.k8s.manifests import (
    ACCOUNT,
    NODE_GROUPS,
    RENDERED,
    ROOT,
    Manifest,
    clusters,
    groups_of,
    pods,
    problems,
    render,
    render_over,
)

SCALING = (
    "base",
    "cluster",
    "overlays/aws",
    "overlays/gcp",
    "overlays/azure",
    "overlays/once",
    "overlays/raycronjob",
)
FIXED = ("overlays/trial", "overlays/kueue")
DAY_SECONDS = 24 * 3600
NAME = "app.kubernetes.io/name"


def kind(folder: str, name: str) -> list[Manifest]:
    return [manifest for manifest in render(folder) if manifest["kind"] == name]


def head_of(spec: Manifest) -> Any:
    return spec["headGroupSpec"]["template"]


def jobs_of(folder: str) -> list[Manifest]:
    """Returns the specs of RayJobs, also of those that a schedule makes."""
    found = [manifest["spec"] for manifest in kind(folder, "RayJob")]
    return found + [manifest["spec"]["jobTemplate"] for manifest in kind(folder, "RayCronJob")]


# Autoscaling


@pytest.mark.parametrize("folder", SCALING)
def test_the_autoscaler_alone_has_a_token(folder: str) -> None:
    """It ends without one, and the head never gets ready; the job's code, beside it, needs none."""
    found = list(clusters(render(folder)))
    assert found
    for spec in found:
        assert spec["enableInTreeAutoscaling"] is True
        assert [each for each in manifests.autoscalers([spec]) if "token" in each] == []
        pod = head_of(spec)["spec"]
        assert pod["automountServiceAccountToken"] is False
        [ray] = pod["containers"]
        assert not [mount for mount in ray["volumeMounts"] if mount["mountPath"] == ACCOUNT]
        assert "kube-api" not in [mount["name"] for mount in ray["volumeMounts"]]


@pytest.mark.parametrize("folder", SCALING)
def test_the_driver_is_told_of_the_nodes_to_come(folder: str) -> None:
    """Ray 2.60 tells it only of nodes that are there, which are none at first."""
    for spec in clusters(render(folder)):
        told = [
            each["value"]
            for each in head_of(spec)["spec"]["containers"][0]["env"]
            if each["name"] == NODE_GROUPS
        ]
        assert told == [groups_of(spec)] == ["cpu:16x7,gpu:8x7+1"]
        assert re.fullmatch(r"[\w-]+:\d+x\d+(\+\d+)?(,[\w-]+:\d+x\d+(\+\d+)?)*", told[0])


@pytest.mark.parametrize("folder", FIXED)
def test_where_no_nodes_come_none_are_told_and_no_token_is_there(folder: str) -> None:
    [spec] = clusters(render(folder))
    pod = head_of(spec)["spec"]
    assert spec["enableInTreeAutoscaling"] is False
    assert NODE_GROUPS not in str(pod)
    assert "kube-api" not in str(pod)


def _patched(*changes: tuple[str, object]) -> list[Manifest]:
    patch = [
        {"op": "replace", "path": f"/spec/rayClusterSpec/{path}", "value": value} for path, value in changes
    ]
    return [{"target": {"kind": "RayJob", "name": "nightly"}, "patch": yaml.safe_dump(patch)}]


def test_an_overlay_that_changes_a_group_changes_what_is_told(tmp_path: Path) -> None:
    group = ("workerGroupSpecs/0/maxReplicas", 40)
    told = ("headGroupSpec/template/spec/containers/0/env/0/value", "cpu:40x7,gpu:8x7+1")
    (tmp_path / "one").mkdir()
    forgotten = render_over("overlays/aws", tmp_path / "one", patches=_patched(group))
    assert any(NODE_GROUPS in problem for problem in problems(forgotten))
    (tmp_path / "both").mkdir()
    assert problems(render_over("overlays/aws", tmp_path / "both", patches=_patched(group, told))) == []


# KubeRay


@pytest.mark.parametrize("folder", [*SCALING, *FIXED])
def test_all_tries_of_a_job_take_less_than_a_day(folder: str) -> None:
    """KubeRay counts the limit of a try from that try's start."""
    for job in jobs_of(folder):
        assert (job["backoffLimit"] + 1) * job["activeDeadlineSeconds"] < DAY_SECONDS
        assert job["preRunningDeadlineSeconds"] < job["activeDeadlineSeconds"]


def test_no_policy_by_exit_code_exists_in_kuberay() -> None:
    """docs/kubernetes.md says so; if KubeRay gets one, a mistake in the config should not be tried again."""
    path = manifests.CRDS / "ray.io_rayjobs.yaml"
    if not path.exists():
        pytest.skip(f"no CRDs of KubeRay at {manifests.CRDS}: set KUBERAY_CRDS")
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    [schema] = [each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1"]
    spec = schema["properties"]["spec"]["properties"]
    assert spec["submitterConfig"]["properties"].keys() == {"backoffLimit"}
    assert not [name for name in spec if re.search("policy|exit", name, re.I)]
    assert "exitCode" not in str(schema["properties"]["status"])


@pytest.mark.parametrize("folder", RENDERED)
def test_kuberay_names_the_pods_of_ray(folder: str) -> None:
    """KubeRay's service for a RayJob selects its head by the name that KubeRay gives."""
    for spec in clusters(render(folder)):
        for group in (spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])):
            assert NAME not in group["template"]["metadata"]["labels"]


@pytest.mark.parametrize("folder", [*SCALING, *FIXED])
def test_kuberay_adds_the_probes(folder: str) -> None:
    """They are one request for Ray 2.53 or newer; KubeRay takes the version from rayVersion."""
    lock = (ROOT / "requirements.lock").read_text()
    for spec in clusters(render(folder)):
        assert f"ray=={spec['rayVersion']}" in lock
        for group in (spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])):
            for container in group["template"]["spec"]["containers"]:
                assert not [field for field in container if field.endswith("Probe")]


def test_a_schedule_of_kuberays_own_says_which_version_it_needs() -> None:
    assert kind("overlays/raycronjob", "RayCronJob")[0]["spec"]["timeZone"] == "Etc/UTC"
    for path in ("k8s/overlays/raycronjob/kustomization.yaml", "docs/kubernetes.md"):
        assert re.search(r"raycronjob`[^\n]*KubeRay 1\.7|needs KubeRay 1\.7", (ROOT / path).read_text())


def test_the_operator_waits_for_a_head_on_a_new_node() -> None:
    values = yaml.safe_load((ROOT / "k8s" / "operator.yaml").read_text())
    assert values.keys() == {"env"}
    assert {each["name"]: each["value"] for each in values["env"]} == {
        "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS": "1800"
    }


# The trial beside production


@pytest.mark.parametrize("folder", [*SCALING, "overlays/kueue"])
def test_the_trial_shares_nothing_with_production(folder: str) -> None:
    """Applied, it would suspend the nights and take the role away; deleted, it would take what it shares."""

    def names(folder: str) -> set[tuple[str, str, str]]:
        metas = [(manifest["kind"], manifest["metadata"]) for manifest in render(folder)]
        return {(kind, meta.get("namespace", ""), meta["name"]) for kind, meta in metas}

    assert not names("overlays/trial") & names(folder)


def test_the_trial_lies_in_its_own_namespace_and_schedules_nothing() -> None:
    for manifest in render("overlays/trial"):
        meta = manifest["metadata"]
        assert (meta["name"] if manifest["kind"] == "Namespace" else meta["namespace"]) == "embeddings-trial"
        for subject in manifest.get("subjects", []):
            assert subject["namespace"] == "embeddings-trial"
    assert not kind("overlays/trial", "CronJob")


# Nodes


@pytest.mark.parametrize("folder", [*SCALING, *FIXED])
def test_what_a_job_can_not_do_without_stays(folder: str) -> None:
    templates = [head_of(spec) for spec in clusters(render(folder))]
    templates += [job["submitterPodTemplate"] for job in jobs_of(folder)]
    for template in templates:
        assert (
            template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        )


def _head_and_submitter(folder: str) -> list[Manifest]:
    [job] = jobs_of(folder)
    return [head_of(job["rayClusterSpec"]), job["submitterPodTemplate"]]


def test_on_aws_karpenter_knows_that_too_and_uses_lasting_nodes() -> None:
    for template in _head_and_submitter("overlays/aws"):
        assert template["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
        assert template["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}


def test_on_google_and_azure_they_stay_off_spot_nodes() -> None:
    for template in _head_and_submitter("overlays/gcp"):
        wanted = template["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        term = {"key": "cloud.google.com/gke-spot", "operator": "DoesNotExist"}
        assert wanted == {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
    # AKS gives each spot node a taint.
    for template in _head_and_submitter("overlays/azure"):
        assert "tolerations" not in template["spec"]


GIB = 1024**3
SMALL, LARGE = (4, 16 * GIB), (8, 32 * GIB)
"""CPUs and bytes of common nodes, of which Kubernetes, its daemons and the kernel keep up to an eighth."""


def _asked(*resources: Manifest) -> tuple[float, int]:
    requests = [each["requests"] for each in resources]
    return sum(cores(each["cpu"]) for each in requests), sum(
        manifests.bytes_of(each["memory"]) for each in requests
    )


def cores(quantity: str) -> float:
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


@pytest.mark.parametrize("folder", [*SCALING, "overlays/kueue"])
def test_pods_fit_common_nodes(folder: str) -> None:
    for spec in clusters(render(folder)):
        pods_of = [(_containers(group["template"]), LARGE) for group in spec["workerGroupSpecs"]]
        beside = [spec["autoscalerOptions"]] if spec["enableInTreeAutoscaling"] else []
        pods_of.append(([*_containers(head_of(spec)), *beside], SMALL))
        for containers, (cpus, memory) in pods_of:
            asked = _asked(*(each["resources"] for each in containers))
            assert asked[0] <= cpus * 7 / 8
            assert asked[1] <= memory * 7 / 8


def _containers(template: Manifest) -> list[Manifest]:
    found: list[Manifest] = template["spec"]["containers"]
    return found


# Priorities and evictions


@pytest.mark.parametrize("folder", SCALING)
def test_workers_give_way_and_the_head_does_not(folder: str) -> None:
    classes = {each["metadata"]["name"]: each for each in kind(folder, "PriorityClass")}
    assert all(each["preemptionPolicy"] == "Never" for each in classes.values())
    # The cluster autoscaler adds no nodes for pods below -10.
    assert -10 < classes["albert-embed-workers"]["value"] < 0 < classes["albert-embed-head"]["value"]
    for spec in clusters(render(folder)):
        assert head_of(spec)["spec"]["priorityClassName"] == "albert-embed-head"
        for group in spec["workerGroupSpecs"]:
            assert group["template"]["spec"]["priorityClassName"] == "albert-embed-workers"
    for job in jobs_of(folder):
        assert job["submitterPodTemplate"]["spec"]["priorityClassName"] == "albert-embed-head"


@pytest.mark.parametrize("folder", [*SCALING, *FIXED])
def test_the_head_is_not_evicted_unless_it_is_broken(folder: str) -> None:
    [budget] = kind(folder, "PodDisruptionBudget")
    assert budget["spec"] == {
        "minAvailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": {"ray.io/node-type": "head"}},
    }


# Kueue


def _queued() -> Manifest:
    [template] = kind("overlays/kueue", "RayJob")
    return template


def test_kueue_does_not_start_the_template_but_its_nights() -> None:
    """Kueue starts what bears its label, and, of a queue named default, what bears none."""
    template = _queued()
    [queue] = [each["metadata"]["name"] for each in kind("overlays/kueue", "LocalQueue")]
    assert QUEUED_IN not in template["metadata"]["labels"]
    assert template["spec"]["suspend"] is True
    assert template["metadata"]["annotations"][QUEUE] == queue != "default"
    made = night(template, datetime.date(2026, 11, 25))
    assert made["metadata"]["labels"][QUEUED_IN] == queue
    assert made["spec"]["suspend"] is True
    others = [manifest for manifest in render("overlays/kueue") if manifest["kind"] != "RayJob"]
    assert problems([*others, made]) == []


def test_kueue_takes_only_jobs_of_a_fixed_size_that_remove_their_cluster() -> None:
    spec = _queued()["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    classes = [pod["priorityClassName"] for _, pod in pods(spec) if "priorityClassName" in pod]
    assert set(classes) == {"albert-embed-workers"}


def test_the_example_of_a_queue_holds_a_night() -> None:
    [queue] = kind("queue", "ClusterQueue")
    [local] = kind("overlays/kueue", "LocalQueue")
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    [flavors] = [group["flavors"] for group in queue["spec"]["resourceGroups"]]
    quota = {each["name"]: _amount(each["nominalQuota"]) for each in flavors[0]["resources"]}
    asked: Counter[str] = Counter()
    spec = _queued()["spec"]
    cluster = spec["rayClusterSpec"]
    counted = [(head_of(cluster), 1), (spec["submitterPodTemplate"], 1)]
    counted += [(group["template"], group["replicas"]) for group in cluster["workerGroupSpecs"]]
    for template, count in counted:
        for container in _containers(template):
            for name, quantity in container["resources"]["requests"].items():
                asked[name] += count * _amount(quantity)
    assert asked.keys() == quota.keys()
    assert all(asked[name] <= quota[name] for name in quota)


def _amount(quantity: str) -> float:
    return manifests.bytes_of(quantity) if quantity.endswith("i") else cores(quantity)


# The schedule


@pytest.mark.parametrize(
    "folder", ["base", "cluster", "overlays/aws", "overlays/gcp", "overlays/azure", "overlays/kueue"]
)
def test_the_schedule_loads_the_config_that_the_job_runs(folder: str) -> None:
    [cronjob] = kind(folder, "CronJob")
    job = cronjob["spec"]["jobTemplate"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    [config] = re.findall(r"--config (/app/configs/\S+)", container["args"][0])
    assert "/app/configs" in [mount["mountPath"] for mount in container["volumeMounts"]]
    [template] = kind(folder, "RayJob")
    assert config in template["spec"]["entrypoint"].split()
    # A ConfigError ends with 2.
    assert 2 in job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]


# Storage

OWN = {"overlays/aws": "s3", "overlays/gcp": "gs", "overlays/azure": "abfs"}


def _night(text: str) -> Any:
    values = yaml.safe_load(text)
    return values | {"source": values["source"]["articles"]}


@pytest.mark.parametrize(("folder", "protocol"), OWN.items())
def test_the_night_of_a_cloud_is_on_its_own_storage(folder: str, protocol: str) -> None:
    """But for the places it is the night of configs/."""
    [configs] = [
        each for each in kind(folder, "ConfigMap") if each["metadata"]["name"].startswith("configs-")
    ]
    assert set(configs["data"]) == {"cluster.yaml", "demo.yaml", "nightly.yaml"}
    found = _night(configs["data"]["nightly.yaml"])
    common = _night((ROOT / "configs" / "nightly.yaml").read_text())
    for section in ("source", "output"):
        assert found[section].pop("path").startswith(f"{protocol}://")
        common[section].pop("path")
    assert found == common


def test_on_azure_all_pods_that_reach_storage_have_the_identity() -> None:
    [account] = [
        each for each in kind("overlays/azure", "ServiceAccount") if each["metadata"]["name"] == "embed"
    ]
    assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
    [job] = jobs_of("overlays/azure")
    workers = [group["template"] for group in job["rayClusterSpec"]["workerGroupSpecs"]]
    for template in [head_of(job["rayClusterSpec"]), *workers]:
        assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
        assert template["spec"]["serviceAccountName"] == "embed"
    [settings] = [
        each for each in kind("overlays/azure", "ConfigMap") if "AZURE_STORAGE_ACCOUNT_NAME" in each["data"]
    ]
    for container in head_of(job["rayClusterSpec"])["spec"]["containers"][:1]:
        sources = [each.get("configMapRef", {}).get("name") for each in container["envFrom"]]
        assert settings["metadata"]["name"] in sources


def test_on_google_the_pods_have_the_identity() -> None:
    [account] = [
        each for each in kind("overlays/gcp", "ServiceAccount") if each["metadata"]["name"] == "embed"
    ]
    assert "iam.gke.io/gcp-service-account" in account["metadata"]["annotations"]
    [job] = jobs_of("overlays/gcp")
    assert head_of(job["rayClusterSpec"])["spec"]["serviceAccountName"] == "embed"
