"""Tests what the admission policy lets the scheduler make, by its expressions on what schedule.py makes.

No API server is available in tests. A library of the same language evaluates the expressions; `replace`,
which Kubernetes adds to the language, is Python's.
"""

import copy
import datetime
from collections.abc import Callable
from typing import Any

import cel
import pytest

from jobs.schedule import night
from tests.k8s.manifests import Manifest, render

DATE = datetime.date(2026, 11, 25)
Change = Callable[[Manifest], Any]


def _policy() -> Any:
    [policy] = [each for each in render("admission") if each["kind"] == "ValidatingAdmissionPolicy"]
    return policy["spec"]


def _template(folder: str = "base") -> Manifest:
    [template] = [manifest for manifest in render(folder) if manifest["kind"] == "RayJob"]
    return template


def refused(job: Manifest, operation: str = "CREATE", folder: str = "base") -> list[str]:
    """Returns the messages with which the scheduler's request is refused."""
    made, old = (None, job) if operation == "DELETE" else (job, None)
    known = {"object": made, "oldObject": old, "params": _template(folder)}
    known["request"] = {"operation": operation, "namespace": "embeddings", "userInfo": {}}
    known["variables"] = {}
    policy = _policy()
    for variable in policy["variables"]:
        known["variables"][variable["name"]] = _evaluated(variable["expression"], known)
    return [each["message"] for each in policy["validations"] if not _evaluated(each["expression"], known)]


def _evaluated(expression: str, known: dict[str, Any]) -> Any:
    context = cel.Context(known)
    context.add_function("replace", lambda text, old, new: text.replace(old, new))
    return cel.evaluate(expression, context)


@pytest.mark.parametrize("operation", ["CREATE", "DELETE"])
@pytest.mark.parametrize("folder", ["base", "overlays/kueue"])
def test_the_night_that_the_scheduler_makes_is_let_in_and_may_go(operation: str, folder: str) -> None:
    assert refused(night(_template(folder), DATE), operation, folder) == []


NAME, ENTRYPOINT, SPEC, QUEUE = "its name", "its entrypoint", "its spec", "its queue"
QUEUED_IN = "kueue.x-k8s.io/queue-name"
CHANGES: dict[str, tuple[Change, str]] = {
    "another name": (lambda job: job["metadata"].update(name="mine"), NAME),
    "another night's name": (lambda job: job["metadata"].update(name="nightly-2026-11-26"), NAME),
    "no date": (lambda job: job["metadata"]["labels"].pop("albert-embed/run-date"), NAME),
    "no labels": (lambda job: job["metadata"].pop("labels"), NAME),
    "another template": (lambda job: job["metadata"]["labels"].update({"albert-embed/night-of": "x"}), NAME),
    "another command": (lambda job: job["spec"].update(entrypoint="curl evil"), ENTRYPOINT),
    "a command behind": (
        lambda job: job["spec"].update(entrypoint=job["spec"]["entrypoint"] + "; curl evil"),
        ENTRYPOINT,
    ),
    "another account": (
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(
            serviceAccountName="admin"
        ),
        SPEC,
    ),
    "another image": (
        lambda job: job["spec"]["submitterPodTemplate"]["spec"]["containers"][0].update(image="evil"),
        SPEC,
    ),
    "a field more": (lambda job: job["spec"].update(runtimeEnvYAML="pip: [evil]"), SPEC),
    "a field less": (lambda job: job["spec"].pop("activeDeadlineSeconds"), SPEC),
    "a queue": (lambda job: job["metadata"]["labels"].update({QUEUED_IN: "embed"}), QUEUE),
    "one that waits for nobody": (lambda job: job["spec"].update(suspend=True), QUEUE),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_job_is_not(name: str) -> None:
    change, expected = CHANGES[name]
    job = copy.deepcopy(night(_template(), DATE))
    change(job)
    assert any(message.startswith(expected) for message in refused(job))


QUEUED_CHANGES: dict[str, Change] = {
    "no queue": lambda job: job["metadata"]["labels"].pop(QUEUED_IN),
    "another queue": lambda job: job["metadata"]["labels"].update({QUEUED_IN: "urgent"}),
    "one that does not wait": lambda job: job["spec"].update(suspend=False),
    "one that does not say whether it waits": lambda job: job["spec"].pop("suspend"),
}


@pytest.mark.parametrize("name", QUEUED_CHANGES)
def test_a_night_of_a_queue_waits_for_that_queue(name: str) -> None:
    job = copy.deepcopy(night(_template("overlays/kueue"), DATE))
    QUEUED_CHANGES[name](job)
    assert any(message.startswith(QUEUE) for message in refused(job, folder="overlays/kueue"))


def test_the_template_and_jobs_of_others_do_not_go() -> None:
    assert refused(_template(), "DELETE")
    assert refused({"metadata": {"name": "once"}, "spec": {}}, "DELETE")


def test_it_is_asked_of_the_scheduler_alone_and_refuses_where_it_can_not_tell() -> None:
    [condition] = _policy()["matchConditions"]
    for account, asked in {"scheduler": True, "embed": False}.items():
        who = {"username": f"system:serviceaccount:embeddings:{account}"}
        request = {"request": {"namespace": "embeddings", "userInfo": who}}
        assert _evaluated(condition["expression"], request) is asked
    [binding] = [each for each in render("admission") if each["kind"].endswith("Binding")]
    assert binding["spec"]["policyName"] == "albert-embed-scheduler"
    assert binding["spec"]["validationActions"] == ["Deny"]
    assert binding["spec"]["paramRef"] == {"name": "nightly", "parameterNotFoundAction": "Deny"}
    assert _policy()["failurePolicy"] == "Fail"
    accounts = [each["metadata"]["name"] for each in render("base") if each["kind"] == "ServiceAccount"]
    assert "scheduler" in accounts
