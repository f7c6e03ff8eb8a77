"""Renders manifests, and finds what is wrong with them: by their schemas, and across their fields."""

import functools
import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.config.load import parse_config
from pipeline.errors import PipelineError
from tests.tools import program

ROOT = Path(__file__).parents[2]
CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "kuberay-crds"))
KUBERNETES = "1.34"
RENDERED = ("base", "cluster", "overlays/aws", "overlays/gcp", "overlays/azure", "overlays/trial",
            "overlays/once", "overlays/raycronjob", "overlays/kueue", "admission", "queue")  # fmt: skip
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
NODE_GROUPS = "EMBED_NODE_GROUPS"
SECRET_WORDS = ("secret_access_key", "password", "token=", "sig=", "accountkey", "AKIA")
Manifest = dict[str, Any]


@functools.cache
def _rendered(folder: Path) -> str:
    kubectl = program("kubectl", "kubectl")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(folder: str) -> list[Manifest]:
    """Returns the manifests of a folder of k8s/, as kustomize renders them."""
    return [manifest for manifest in yaml.safe_load_all(_rendered(ROOT / "k8s" / folder)) if manifest]


def render_over(folder: str, at: Path, **more: Any) -> list[Manifest]:
    """Returns the manifests of an overlay over a folder of k8s/.

    Args:
        at: an empty folder for the overlay.
        more: what its kustomization.yaml holds in addition.
    """
    overlay = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"} | more
    overlay["resources"] = [os.path.relpath(ROOT / "k8s" / folder, at.resolve())]
    (at / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return [manifest for manifest in yaml.safe_load_all(_rendered(at)) if manifest]


@functools.cache
def _ray_schema(kind: str) -> Any:
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"no CRDs of KubeRay at {CRDS}: set KUBERAY_CRDS")
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    [schema] = [each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1"]
    schema["properties"]["metadata"] = {"type": "object"}
    return _strict(schema)


def _strict(schema: Any) -> Any:
    """Turns Kubernetes' schema into JSON Schema: refuses unknown fields, and translates its own keywords."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _strict(value) for key, value in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.pop("nullable", False) and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", schema.get("x-kubernetes-preserve-unknown-fields", False))
    return schema


def defaulted(value: Any, schema: Any) -> Any:
    """Returns a manifest as the API server stores it, with the defaults of its schema."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        filled = {name: each["default"] for name, each in known.items() if "default" in each} | value
        other = schema.get("additionalProperties")
        other = other if isinstance(other, dict) else {}
        return {name: defaulted(each, known.get(name, other)) for name, each in filled.items()}
    if isinstance(value, list):
        return [defaulted(each, schema.get("items", {})) for each in value]
    return value


def problems(manifests: list[Manifest]) -> list[str]:
    """Lists what is wrong with a rendered folder."""
    checks = (by_schema, images, replicas, containers, disk, secrets, references, entrypoints, autoscalers)
    return [problem for check in checks for problem in check(manifests)]


def by_schema(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        kind = manifest["kind"]
        if manifest["apiVersion"].startswith("ray.io/"):
            schema = _ray_schema(kind)
            for error in jsonschema.Draft202012Validator(schema).iter_errors(defaulted(manifest, schema)):
                yield f"{kind}: {error.json_path}: {error.message[:200]}"
        elif not manifest["apiVersion"].startswith(("monitoring.coreos.com/", "kueue.x-k8s.io/")):
            try:
                kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{kind}: {error.path}: {error.message}"


def pods(node: Any, path: str = "") -> Iterator[tuple[str, Manifest]]:
    """Yields every pod's spec in a manifest, with its position."""
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            yield path, node
        for key, value in node.items():
            yield from pods(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from pods(value, f"{path}[{number}]")


def _containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    for manifest in manifests:
        for path, pod in pods(manifest, manifest["kind"]):
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield f"{path}: {container['name']}", pod, container


def images(manifests: list[Manifest]) -> Iterator[str]:
    for where, _, container in _containers(manifests):
        image = container.get("image", "")
        name, _, tag = image.rpartition(":")
        if "@sha256:" not in image and (not name or "/" in tag or tag == "latest"):
            yield f"{where}: image {image!r} is not pinned"


def replicas(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        for group in _groups(manifest):
            least, most = group.get("minReplicas", 0), group.get("maxReplicas", 0)
            if not least <= group.get("replicas", least) <= most:
                yield f"{manifest['kind']}: group {group['groupName']}: not within {least} and {most}"


def _groups(node: Any) -> Iterable[Manifest]:
    if isinstance(node, dict):
        yield from node.get("workerGroupSpecs", [])
        for value in node.values():
            yield from _groups(value)


def containers(manifests: list[Manifest]) -> Iterator[str]:
    for where, pod, container in _containers(manifests):
        security, outer = container.get("securityContext", {}), pod.get("securityContext", {})
        resources = container.get("resources", {})
        wanted = {
            "may escalate its privileges": security.get("allowPrivilegeEscalation") is False,
            "may write to its root": security.get("readOnlyRootFilesystem"),
            "keeps capabilities": security.get("capabilities", {}).get("drop") == ["ALL"],
            "may run as root": outer.get("runAsNonRoot") and security.get("runAsNonRoot"),
            "has no seccomp profile": outer.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "has no requests": {"cpu", "memory"} <= resources.get("requests", {}).keys(),
            "has no limit of its memory": "memory" in resources.get("limits", {}),
            "has no requests and limits of its disk": all(
                "ephemeral-storage" in resources.get(kind, {}) for kind in ("requests", "limits")
            ),
            # KubeRay's are one request to Ray's agent; ours would start a shell and wget every few seconds.
            "has probes of its own": not {"livenessProbe", "readinessProbe"} & container.keys(),
        }
        yield from (f"{where}: {problem}" for problem, sound in wanted.items() if not sound)


def disk(manifests: list[Manifest]) -> Iterator[str]:
    """Checks that a pod's volumes are bounded, and together below the limit at which it is evicted."""
    for where, pod, container in _containers(manifests):
        sizes = [volume["emptyDir"].get("sizeLimit") for volume in pod["volumes"] if "emptyDir" in volume]
        if None in sizes:
            yield f"{where}: an emptyDir has no sizeLimit"
            continue
        limit = container.get("resources", {}).get("limits", {}).get("ephemeral-storage", "0Mi")
        if sum(map(bytes_of, sizes)) > bytes_of(limit):
            yield f"{where}: its volumes hold more than its limit of {limit}"


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1024**2, "Gi": 1024**3}[quantity[-2:]]


def secrets(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            yield f"Secret {manifest['metadata']['name']}: values of secrets do not belong here"
        text = json.dumps(manifest)
        for word in SECRET_WORDS:
            if word.lower() in text.lower():
                yield f"{manifest['kind']} {manifest['metadata']['name']}: holds {word!r}"
    for where, _, container in _containers(manifests):
        for variable in container.get("env", []):
            name = variable["name"].removesuffix("TOKEN_PATH")
            if any(word in name for word in ("KEY", "SECRET", "TOKEN")) and "value" in variable:
                yield f"{where}: {variable['name']} has its value here"
        if any("secretRef" in source for source in container.get("envFrom", [])):
            yield f"{where}: a secret is in the environment of every process"


def references(manifests: list[Manifest]) -> Iterator[str]:
    """Checks that every name refers to something here; people make secrets, so these must be optional."""
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    for where, kind, name in _named(manifests):
        if (kind, name) not in there:
            yield f"{where}: no {kind} {name}"
    for where, pod, container in _containers(manifests):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{where}: no volume {mount['name']}"
        for volume in pod.get("volumes", []):
            secret = volume.get("secret")
            if secret and not secret.get("optional"):
                yield f"{where}: Secret {secret['secretName']} must be there"


def _named(manifests: list[Manifest]) -> Iterator[tuple[str, str, str]]:
    """Yields the position, the kind and the name of each reference."""
    for manifest in manifests:
        for path, pod in pods(manifest, manifest["kind"]):
            yield from ((path, kind, name) for kind, name in _named_by(pod))
        if manifest["kind"] == "RoleBinding":
            for each in [manifest["roleRef"], *manifest["subjects"]]:
                yield "RoleBinding", each["kind"], each["name"]
    for where, _, container in _containers(manifests):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield where, "ConfigMap", source["configMapRef"]["name"]


def _named_by(pod: Manifest) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod.get("serviceAccountName", "default")
    if "priorityClassName" in pod:
        yield "PriorityClass", pod["priorityClassName"]
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]


def entrypoints(manifests: list[Manifest]) -> Iterator[str]:
    """Checks that each entrypoint names an existing module, and that its config is mounted and loads."""
    mounted = {
        f"/app/configs/{name}": text
        for manifest in manifests
        if manifest["kind"] == "ConfigMap"
        for name, text in manifest["data"].items()
    }
    for manifest in manifests:
        for entrypoint in (*_entrypoints(manifest), *_commands(manifest)):
            words = shlex.split(entrypoint)
            module = ROOT / (words[2].replace(".", "/") + ".py")
            if words[:2] != ["python", "-m"] or not module.exists():
                yield f"{manifest['kind']}: {entrypoint!r} does not exist"
            for word in words:
                if word.endswith(".yaml"):
                    yield from _config(manifest["kind"], word, mounted.get(word))


def _entrypoints(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "entrypoint":
                yield value
            else:
                yield from _entrypoints(value)


def _commands(manifest: Manifest) -> Iterator[str]:
    """Yields the command of the pod that makes the night's job: it names the config, too."""
    for _, pod in pods(manifest) if manifest["kind"] == "CronJob" else ():
        for container in pod["containers"]:
            yield from (text.removeprefix("exec ") for text in container["args"])


def _config(kind: str, name: str, text: str | None) -> Iterator[str]:
    if text is None:
        yield f"{kind}: no ConfigMap has {name}"
        return
    try:
        parse_config(yaml.safe_load(text), name)
    except PipelineError as error:
        yield f"{kind}: {error}"


def autoscalers(manifests: list[Manifest]) -> Iterator[str]:
    """Checks that an autoscaler has the token that it needs, and that the driver knows what it may add."""
    for spec in clusters(manifests):
        head = spec["headGroupSpec"]["template"]["spec"]
        told = [each["value"] for each in _of(head, "ray-head").get("env", []) if each["name"] == NODE_GROUPS]
        wanted = [groups_of(spec)] if spec.get("enableInTreeAutoscaling") else []
        if told != wanted:
            yield f"{NODE_GROUPS} of ray-head is {told}, but workerGroupSpecs say {wanted}"
        if spec.get("enableInTreeAutoscaling") and not {"token", "ca.crt"} <= set(_token(spec, head)):
            yield f"the autoscaler has no token at {ACCOUNT}"


def clusters(node: Any) -> Iterator[Manifest]:
    """Yields the spec of every Ray cluster."""
    if isinstance(node, dict):
        if "headGroupSpec" in node:
            yield node
        for value in node.values():
            yield from clusters(value)
    elif isinstance(node, list):
        for value in node:
            yield from clusters(value)


def _of(pod: Manifest, name: str) -> Manifest:
    [container] = [each for each in pod["containers"] if each["name"] == name]
    return container


def _token(spec: Manifest, head: Manifest) -> Iterator[str]:
    """Yields the files that the autoscaler finds where Ray looks for its account."""
    mounts = spec.get("autoscalerOptions", {}).get("volumeMounts", [])
    names = [mount["name"] for mount in mounts if mount["mountPath"] == ACCOUNT]
    if head.get("automountServiceAccountToken"):
        yield from ("token", "ca.crt")
    for volume in head["volumes"]:
        for source in volume.get("projected", {}).get("sources", []) if volume["name"] in names else ():
            if "serviceAccountToken" in source:
                yield source["serviceAccountToken"]["path"]
            yield from (item["path"] for item in source.get("configMap", {}).get("items", []))


def groups_of(spec: Manifest) -> str:
    """Returns the worker groups of a cluster, as the driver is told of them."""
    found = []
    for group in spec["workerGroupSpecs"]:
        limits, started = (
            _of(group["template"]["spec"], "ray-worker")["resources"]["limits"],
            group["rayStartParams"],
        )
        cpus, gpus = (
            started.get("num-cpus", limits["cpu"]),
            started.get("num-gpus", limits.get("nvidia.com/gpu", "0")),
        )
        found.append(
            f"{group['groupName']}:{group['maxReplicas']}x{cpus}" + (f"+{gpus}" if gpus != "0" else "")
        )
    return ",".join(found)
