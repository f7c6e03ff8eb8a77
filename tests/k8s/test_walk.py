"""Checks the pages' commands for clusters as far as goes without one: their flags, files, folders and names.

kubectl itself parses each command, and refuses an unknown verb or flag. What a command names must be in a
rendered folder, or be made by KubeRay under a name that follows from one there.
"""

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.k8s.manifests import RENDERED, ROOT, render
from tests.test_docs import PAGES
from tests.tools import program

PLURAL = {"rayjobs": "rayjob", "service": "svc"}
OPERATORS = {"kuberay-operator": {("deployment", "kuberay-operator")}}
"""What KubeRay's chart installs under this name; the namespace is that of the page's helm command."""
SELECTORS = {"ray.io/is-ray-node=yes", "ray.io/node-type=head", "ray.io/node-type=worker"}
"""Labels that KubeRay gives its pods; the network policies select by the same."""
NIGHT = re.compile(r"nightly-\d{4}-\d\d-\d\d")


def commands(program: str) -> list[str]:
    """Returns the commands of a program in the pages' blocks and texts, without what follows a pipe."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [
            line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()
        ]
        lines += re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            inner = re.search(rf"\$\(({program} [^|)]*)", line)
            if inner or line.startswith(f"{program} "):
                found.append((inner[1] if inner else line).strip())
    # A text may name a command without what it acts on.
    whole = re.compile(rf"{program} .*\S .*[^…](?<! -k)")
    return [line for line in dict.fromkeys(found) if whole.fullmatch(line)]


KUBECTL = commands("kubectl")


@pytest.mark.parametrize("line", KUBECTL)
def test_kubectl_knows_the_command(line: str) -> None:
    kubectl = program("kubectl", "kubectl")
    done = subprocess.run(
        [kubectl, *shlex.split(line)[1:], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", KUBECTL)
def test_what_kubectl_is_to_act_on_is_there(line: str) -> None:
    words = shlex.split(line)[1:]
    flags = dict(itertools.pairwise(words))
    names = [word for word in words if not word.startswith("-")]
    if "-k" in flags or names[0] == "kustomize":
        folder = (flags.get("-k") or names[1]).removeprefix("k8s/")
        assert folder in (*RENDERED, "monitoring")
    elif "-f" in flags:
        assert (ROOT / flags["-f"]).exists()
    elif names[:2] == ["delete", "namespace"]:
        assert names[2] in {namespace for folder in RENDERED for namespace in _namespaces(folder)}
    else:
        namespace = flags.get("--namespace", "embeddings")
        there = OPERATORS.get(namespace) or set(_made(namespace))
        assert there, f"no folder has the namespace {namespace}"
        for kind, name in _named(words):
            assert (kind, name) in there or NIGHT.fullmatch(name), f"no {kind} {name}"
        assert flags.get("--selector", "ray.io/is-ray-node=yes") in SELECTORS


def _namespaces(folder: str) -> Iterator[str]:
    yield from (each["metadata"]["name"] for each in render(folder) if each["kind"] == "Namespace")


def _named(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yields what a command gets, reads or deletes, as kind and name; not what it makes."""
    for word in words:
        kind, _, name = word.removeprefix("--from=").partition("/")
        if name and "=" not in name:
            yield PLURAL.get(kind, kind), name
    for verb in {"get", "delete", "describe"} & set(words):
        kind, *names = words[words.index(verb) + 1 :]
        yield from ((PLURAL.get(kind, kind), name) for name in names[:1] if not name.startswith("-"))


def _made(namespace: str) -> Iterator[tuple[str, str]]:
    """Yields the objects of a namespace, those of the pages' own commands included."""
    for folder in RENDERED:
        for manifest in render(folder):
            meta, kind = manifest["metadata"], manifest["kind"].lower()
            if meta.get("namespace") == namespace:
                yield kind, meta["name"]
                if kind == "rayjob":
                    yield "job", meta["name"]  # of its submitter
                if kind == "raycluster":
                    yield "svc", f"{meta['name']}-head-svc"
                    yield "secret", meta["name"]  # its token
    for line in KUBECTL:
        made = re.fullmatch(rf"kubectl --namespace {namespace} create job --from=\S+ (\S+)", line)
        if made:
            yield "job", made[1]


def test_the_folders_of_the_walk_come_in_an_order_that_works() -> None:
    """Each command finds what it needs: namespaces and operators come before what lies in them."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    walk = text[: text.index("### If it does not start")]
    order = (
        "docker build",
        "docker push",
        "helm repo add",
        "helm install",
        "rollout status deployment/kuberay-operator",
        "apply -k k8s/overlays/trial",
        "delete namespace embeddings-trial",
        "apply -f k8s/base/namespace.yaml",
        "create secret generic credentials",
        "apply -k k8s/overlays/aws",
        "create job --from=cronjob/nightly by-hand",
        "logs --follow job/nightly-2026-11-25",
        "apply -k k8s/monitoring",
    )
    places = [walk.index(each) for each in order]
    assert places == sorted(places)


def test_helm_installs_a_pinned_operator_with_our_values() -> None:
    [line] = [line for line in commands("helm") if line.startswith("helm install")]
    words = shlex.split(line)
    flags = dict(itertools.pairwise(words))
    assert words[2:4] == ["kuberay-operator", "kuberay/kuberay-operator"]
    assert flags["--namespace"] in OPERATORS
    assert "--create-namespace" in words
    assert yaml.safe_load((ROOT / flags["--values"]).read_text())["env"]
    assert re.fullmatch(r"1\.([7-9]|\d\d)\.\d+", flags["--version"])


def test_the_image_of_the_walk_is_the_manifests() -> None:
    lines = "\n".join(commands("docker"))
    tagged, pushed = set(re.findall(r"--tag (\S+)", lines)), set(re.findall(r"docker push (\S+)", lines))
    [image] = {
        container["image"]
        for manifest in render("base")
        if manifest["kind"] == "CronJob"
        for container in manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    }
    assert tagged == pushed == {image}


def test_the_nodes_that_the_walk_asks_for_are_the_manifests() -> None:
    [job] = [manifest["spec"] for manifest in render("base") if manifest["kind"] == "RayJob"]
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    cluster = job["rayClusterSpec"]
    for group in cluster["workerGroupSpecs"]:
        asked = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        size = f"{asked['cpu']} CPUs, {asked['memory'].removesuffix('Gi')} GiB"
        assert f"| {group['groupName'].upper()} worker, at most {group['maxReplicas']} | {size}" in text
    told = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"][0]["value"]
    assert f"`{told}`" in text
    assert job["activeDeadlineSeconds"] == 11 * 3600
    assert "`activeDeadlineSeconds` (11 hours)" in text
