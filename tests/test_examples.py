"""Checks the examples of docs/scheduling.md: by schemas, by running them, and by our own command line."""

import runpy
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import kubernetes_validate
import pytest
import yaml

from pipeline import cli
from tests.k8s.manifests import KUBERNETES

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
MAY_RUN_AGAIN = [4, 137]


def parses(command: list[str]) -> None:
    """Checks that a command is one of ours, for a night with its date."""
    assert command[0] == "albert-embed"
    arguments = cli.parser().parse_args(command[1:])
    assert arguments.run_date is not None
    assert Path(arguments.config).name == "nightly.yaml"


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


def test_every_example_is_named_in_the_page() -> None:
    page = (EXAMPLES.parent / "scheduling.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if f"(examples/{path.name})" not in page] == []


def test_the_job_fits_kubernetes_and_retries_what_may_help() -> None:
    job = read("kubernetes-job.yaml")
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    parses(container["command"])
    _, rule = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "NotIn",
        "values": MAY_RUN_AGAIN,
    }


def unknown(given: Any, kept: Any, path: str = "") -> list[str]:
    """Lists the keys that a schema does not have: it drops them."""
    if isinstance(given, dict):
        return [
            found
            for key, value in given.items()
            for found in (unknown(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}"])
        ]
    if isinstance(given, list):
        return [found for one, other in zip(given, kept, strict=True) for found in unknown(one, other, path)]
    return []


def test_the_workflow_fits_argo_and_retries_what_may_help() -> None:
    models = pytest.importorskip("hera.workflows.models")
    workflow = read("argo-cronworkflow.yaml")
    kept = models.CronWorkflow.model_validate(workflow).model_dump(by_alias=True, exclude_none=True)
    assert unknown(workflow, kept) == []
    assert unknown({"spec": {"schedulez": []}}, kept) == [".spec.schedulez"]
    [template] = workflow["spec"]["workflowSpec"]["templates"]
    assert workflow["spec"]["workflowSpec"]["entrypoint"] == template["name"]
    assert template["retryStrategy"]["expression"].startswith(
        f"asInt(lastRetry.exitCode) in {MAY_RUN_AGAIN} "
    )
    container = template["container"]
    parts = {"Y": "2026", "m": "11", "d": "25"}
    arguments = [
        argument.replace("{{workflow.creationTimestamp.", "{").replace("}}", "}").format(**parts)
        for argument in container["args"]
    ]
    parses([*container["command"], *arguments])


class Operator:
    """A stand-in of Airflow's operator, as far as the example depends on it: its `cleanup` raises."""

    made: ClassVar["list[Operator]"] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.base_container_name = options, "base"
        self.made.append(self)

    def cleanup(self, _pod: Any, remote_pod: Any, **_: Any) -> None:
        raise FailedError(remote_pod.status.container_statuses[0].state.terminated.message)


class FailedError(Exception):
    """Stands for `AirflowException`."""


class FailedForGoodError(FailedError):
    """Stands for `AirflowFailException`."""


class Dag:
    def __init__(self, **options: Any) -> None:
        self.options = options

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(self, *_: object) -> None:
        """Does nothing."""


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs the example with stand-ins of what it imports."""
    operators = "airflow.providers.cncf.kubernetes.operators.pod"
    contents: dict[str, dict[str, Any]] = {
        "airflow": {"DAG": Dag},
        "airflow.exceptions": {"AirflowException": FailedError, "AirflowFailException": FailedForGoodError},
        operators: {"KubernetesPodOperator": Operator},
        "kubernetes.client": {"models": types.SimpleNamespace(V1ResourceRequirements=dict)},
    }
    names = {name.rsplit(".", up)[0] for name in contents for up in range(name.count(".") + 1)}
    for name in names:
        module = types.ModuleType(name)
        vars(module).update(contents.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    Operator.made.clear()
    return runpy.run_path(str(EXAMPLES / "airflow_dag.py"))


def ended(code: int | None) -> Any:
    """Makes a pod whose container ended so; None: it is lost."""
    terminated = None if code is None else types.SimpleNamespace(exit_code=code, message=f"exit {code}: so")
    state = types.SimpleNamespace(terminated=terminated)
    statuses = [types.SimpleNamespace(name="base", state=state)]
    return types.SimpleNamespace(status=types.SimpleNamespace(container_statuses=statuses))


@pytest.mark.parametrize(
    ("code", "again"), [(4, True), (137, True), (1, False), (2, False), (3, False), (5, False)]
)
def test_the_dag_fails_for_good_if_a_retry_does_not_help(
    airflow: dict[str, Any], code: int, again: bool
) -> None:
    [operator] = Operator.made
    with pytest.raises(FailedError, match=f"exit {code}: so") as raised:
        operator.cleanup(None, ended(code), xcom_result=None, context={})
    assert isinstance(raised.value, FailedForGoodError) is not again


def test_the_dag_runs_a_command_of_ours(airflow: dict[str, Any]) -> None:
    [operator] = Operator.made
    date = {"{{ data_interval_end | ds }}": "2026-11-25"}
    parses([*operator.options["cmds"], *(date.get(each, each) for each in operator.options["arguments"])])
    assert airflow["exit_code"](ended(None), "base") is None
    assert set(airflow["AGAIN"]) == {*MAY_RUN_AGAIN, None}


@pytest.mark.parametrize(
    ("codes", "tries", "last"),
    [((0,), 1, 0), ((4, 4, 0), 3, 0), ((2,), 1, 2), ((4, 3), 2, 3), ((4, 4, 4, 4, 0), 4, 4)],
)
def test_the_script_of_cron_tries_again_only_after_4(
    tmp_path: Path, codes: tuple[int, ...], tries: int, last: int
) -> None:
    fake = tmp_path / "albert-embed"
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    fake.write_text(
        f'#!/bin/sh\ncd {tmp_path}\necho "albert-embed $*" >> calls\n'
        'code=$(sed -n "$(wc -l < calls)p" codes)\nexit "$code"\n'
    )
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PAUSE": "0"}
    done = subprocess.run(
        ["sh", EXAMPLES / "night.sh", "/etc/embed/nightly.yaml"], env=environment, check=False
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (done.returncode, len(calls), len(set(calls))) == (last, tries, 1)
    parses(shlex.split(calls[0]))


def test_the_crontab_runs_the_script() -> None:
    *settings, line = (EXAMPLES / "crontab").read_text().splitlines()
    assert len(line.split()[:5]) == 5
    assert "%" not in line  # cron would make a line break of it
    assert line.split()[5:9] == ["flock", "--nonblock", "/run/lock/embed-night", "/opt/embed/night.sh"]
    assert "RAY_ADDRESS=10.0.0.5:6379" in settings
