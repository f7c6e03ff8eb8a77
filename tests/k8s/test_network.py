"""Tests which connections the network policies allow, as a network that enforces them would decide.

No such network is available in tests. The answers come only from the rendered policies.
"""

import functools
import ipaddress
from typing import Any

import pytest

from tests.k8s.manifests import Manifest, pods, render

RAY = {"ray.io/is-ray-node": "yes"}
HEAD, WORKER = RAY | {"ray.io/node-type": "head"}, RAY | {"ray.io/node-type": "worker"}
SUBMITTER = {"app.kubernetes.io/component": "submitter", "app.kubernetes.io/part-of": "albert-embed"}
SCHEDULER = {"app.kubernetes.io/component": "schedule"}
STRANGER = {"app": "stranger"}
DNS = ("kube-system", {"k8s-app": "kube-dns"})
PROMETHEUS = ("monitoring", {"a": "b"})
KUBERAY = {"app.kubernetes.io/component": "kuberay-operator"}
OPERATOR, OPERATOR_ELSEWHERE = ("kuberay-operator", KUBERAY), ("default", KUBERAY)
"""KubeRay's own instructions install it into `default`."""
OURS = "embeddings"
End = tuple[str, dict[str, str]] | str
"""A pod by namespace and labels, or an address outside."""


def _has(labels: dict[str, str], selector: Manifest | None) -> bool:
    wanted = (selector or {}).get("matchLabels", {})
    within = (selector or {}).get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in within)
    return wanted.items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in within
    )


def _is(peer: Manifest, end: End) -> bool:
    if "ipBlock" in peer:
        return isinstance(end, str) and ipaddress.ip_address(end) in ipaddress.ip_network(
            peer["ipBlock"]["cidr"]
        )
    if isinstance(end, str):
        return False
    namespace, labels = end
    home = {"kubernetes.io/metadata.name": namespace}
    there = _has(home, peer["namespaceSelector"]) if "namespaceSelector" in peer else namespace == OURS
    return there and _has(labels, peer.get("podSelector"))


def _named(ports: list[Manifest], port: int, protocol: str) -> bool:
    return not ports or any(
        each["port"] <= port <= each.get("endPort", each["port"]) and each.get("protocol", "TCP") == protocol
        for each in ports
    )


def _lets(policies: list[Manifest], way: str, pod: End, other: End, port: int, protocol: str) -> bool:
    """Tells whether the policies of one of our pods let something in, or out."""
    if isinstance(pod, str) or pod[0] != OURS:
        return True
    mine = [each["spec"] for each in policies if _has(pod[1], each["spec"]["podSelector"])]
    rules = [rule for spec in mine for rule in spec.get(way.lower(), [])]
    assert any(way in spec["policyTypes"] for spec in mine)
    peers = "from" if way == "Ingress" else "to"
    return any(
        _named(rule.get("ports", []), port, protocol)
        and (peers not in rule or any(_is(peer, other) for peer in rule[peers]))
        for rule in rules
    )


def _may(source: End, target: End, port: int, protocol: str = "TCP", folder: str = "base") -> bool:
    policies = _policies(folder)
    out = _lets(policies, "Egress", source, target, port, protocol)
    return out and _lets(policies, "Ingress", target, source, port, protocol)


@functools.cache
def _policies(folder: str) -> list[Manifest]:
    return [each for each in render(folder) if each["kind"] == "NetworkPolicy"]


def ours(labels: dict[str, str]) -> End:
    return OURS, labels


PUBLIC, METADATA = "52.218.0.1", "169.254.169.254"


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        *[(ours(WORKER), ours(HEAD), port) for port in (6379, 6380, 6381, 6383, 8080, 10002, 19999)],
        *[(ours(HEAD), ours(WORKER), port) for port in (6380, 6381, 6383, 8080, 52365, 12345)],
        *[(ours(WORKER), ours(WORKER), port) for port in (6380, 6381, 15000)],
        (ours(SUBMITTER), ours(HEAD), 8265),
        (OPERATOR, ours(HEAD), 8265),
        (OPERATOR_ELSEWHERE, ours(HEAD), 8265),
        (PROMETHEUS, ours(WORKER), 8080),
        (ours(HEAD), PUBLIC, 443),
        (ours(WORKER), PUBLIC, 443),
        (ours(HEAD), PUBLIC, 6443),
        (ours(SCHEDULER), PUBLIC, 443),
        (ours(SCHEDULER), PUBLIC, 6443),
    ],
)
def test_what_a_job_needs_is_let_through(source: End, target: End, port: int) -> None:
    assert _may(source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (ours(SUBMITTER), ours(HEAD), 6379),
        (ours(SUBMITTER), ours(WORKER), 6380),
        (ours(SUBMITTER), PUBLIC, 443),
        (ours(SCHEDULER), ours(HEAD), 8265),
        (ours(SCHEDULER), ours(WORKER), 10002),
        (ours(STRANGER), ours(HEAD), 6379),
        (ours(STRANGER), PUBLIC, 443),
        (ours(WORKER), ours(SUBMITTER), 22),
        (ours(WORKER), ours(HEAD), 8265),
        (ours(WORKER), ours(HEAD), 10001),
        (ours(WORKER), ours(HEAD), 22),
        (ours(WORKER), PUBLIC, 6443),
        (ours(WORKER), PUBLIC, 80),
        (ours(HEAD), METADATA, 80),
        (OPERATOR, ours(HEAD), 6379),
        (OPERATOR, ours(WORKER), 6380),
        (("kuberay-operator", STRANGER), ours(HEAD), 8265),
        (PROMETHEUS, ours(HEAD), 8265),
        (("default", HEAD), ours(HEAD), 6379),
        (("default", SUBMITTER), ours(HEAD), 8265),
    ],
)
def test_nothing_else_is(source: End, target: End, port: int) -> None:
    assert not _may(source, target, port)


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_names_are_asked_of_the_clusters_own_dns(protocol: str) -> None:
    for pod in (HEAD, WORKER, SUBMITTER, SCHEDULER):
        assert _may(ours(pod), DNS, 53, protocol)
        assert _may(ours(pod), "169.254.20.10", 53, protocol)
        assert not _may(ours(pod), PUBLIC, 53, protocol)
        assert not _may(ours(pod), ("kube-system", {"k8s-app": "other"}), 53, protocol)
        assert not _may(ours(pod), ("default", {"k8s-app": "kube-dns"}), 53, protocol)


def test_overlays_open_what_they_say() -> None:
    assert _may(ours(WORKER), METADATA, 80, folder="overlays/gcp")
    assert not _may(ours(SUBMITTER), METADATA, 80, folder="overlays/gcp")
    assert not _may(ours(WORKER), PUBLIC, 443, folder="overlays/trial")


@pytest.mark.parametrize("folder", ["base", "cluster", "overlays/trial", "overlays/raycronjob"])
def test_ray_is_told_its_ports_and_they_are_open(folder: str) -> None:
    """Ray uses any ports by default. With these set it listens on no others, as `ss` showed for Ray 2.60."""
    found = [each for manifest in render(folder) for each in _parameters(manifest)]
    assert found
    for parameters in found:
        single = (
            "node-manager-port",
            "object-manager-port",
            "runtime-env-agent-port",
            "dashboard-agent-grpc-port",
        )
        ports = [int(parameters[each]) for each in single]
        assert len(set(ports)) == len(ports)
        for port in [*ports, int(parameters["min-worker-port"]), int(parameters["max-worker-port"])]:
            assert _may(ours(WORKER), ours(WORKER), port, folder=folder)


def _parameters(node: Any) -> list[dict[str, str]]:
    if isinstance(node, list):
        return [each for value in node for each in _parameters(value)]
    if not isinstance(node, dict):
        return []
    mine = [node["rayStartParams"]] if "rayStartParams" in node else []
    return mine + [each for value in node.values() for each in _parameters(value)]


@pytest.mark.parametrize("folder", ["base", "overlays/raycronjob"])
def test_the_submitter_bears_the_label_that_the_policies_know(folder: str) -> None:
    names = []
    for manifest in render(folder):
        for path, pod in pods(manifest):
            names += [path for each in pod["containers"] if each["name"] == "ray-job-submitter"]
    assert names
    for manifest in render(folder):
        spec = manifest.get("spec", {})
        template = spec.get("jobTemplate", spec).get("submitterPodTemplate")
        if template:
            assert template["metadata"]["labels"].items() >= {("app.kubernetes.io/component", "submitter")}
