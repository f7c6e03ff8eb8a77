"""Makes the night's RayJob from a suspended one, for a CronJob's pod: `python -m jobs.schedule --help`.

The job is named by the date for which Kubernetes scheduled the pod, not by the date on which it runs: a
CronJob's Jobs are named `<name>-<minutes since 1970>`. The job is made with create, so a second pod for the
same night changes nothing. It is refused while the job of another night is not finished: two jobs would embed
the same changes twice. Before that, the config is loaded: a mistake in it would cost a cluster for each try.

If the template names a queue of Kueue (annotation `albert-embed/queue`), the night gets Kueue's label, and
stays suspended until Kueue starts it. The template itself must not have that label: Kueue would start it.
"""

import argparse
import copy
import datetime
import json
import os
import shlex
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.config.load import load_config
from pipeline.errors import ConfigError, ExitCode, IncompleteError, PipelineError, StorageError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NIGHT_OF, DATE = "albert-embed/night-of", "albert-embed/run-date"
"""Labels of the jobs that this program makes: the template's name, and the date."""
QUEUE, QUEUED_IN = "albert-embed/queue", "kueue.x-k8s.io/queue-name"
"""The template's annotation with the name of a queue, and Kueue's own label, which a night in it bears."""
FAILED = ("Failed", "ValidationFailed")
FINISHED = ("Complete", *FAILED)
DAY_MINUTES = 24 * 60
OLDEST_MINUTES, NEWEST_MINUTES = 40 * DAY_MINUTES, DAY_MINUTES
"""How far before and after now a number in a Job's name may lie to be the time of a schedule."""
TIMEOUT_SECONDS = 30


class Api:
    """The RayJobs of a namespace, in Kubernetes' API.

    Args:
        url: the server's URL; by default the pod's own server.
        account: the folder with `token`, `namespace` and, for https, `ca.crt`.
    """

    def __init__(self, url: str | None, account: Path) -> None:
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        if not (url or host):
            raise ConfigError("is not in a Kubernetes pod", "KUBERNETES_SERVICE_HOST", hint="or name --api")
        server = url or f"https://{f'[{host}]' if ':' in host else host}:{port}"
        namespace = (account / "namespace").read_text().strip()
        self.path = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self.token = (account / "token").read_text().strip()
        authorities = account / "ca.crt"
        self.context = ssl.create_default_context(cafile=str(authorities)) if authorities.exists() else None

    def call(
        self, method: str, path: str = "", body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Sends a request; returns status and answer. 404 and 409 are answers, too.

        Raises:
            ConfigError: the request is not allowed, or not understood.
            StorageError: the server does not answer, or its answer is not final.
        """
        request = urllib.request.Request(
            self.path + path,
            json.dumps(body).encode() if body else None,
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=self.context) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            if error.code in (404, 409):
                return error.code, {}
            kind = ConfigError if error.code < 500 and error.code != 429 else StorageError
            raise kind(f"Kubernetes' API says {error.code}", f"{method} {request.full_url}", said) from None
        except OSError as error:
            raise StorageError("Kubernetes' API does not answer", request.full_url, str(error)) from None


def run_date(job: str, zone: str, now: datetime.datetime) -> datetime.date:
    """Returns the date for which a CronJob's Job was scheduled; today for a Job that was made by hand.

    The name of the latter may end in a number, too (`by-hand-2`), which is then not minutes near now.

    Raises:
        ConfigError: the time zone does not exist.
    """
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError("no such time zone", "--time-zone", zone, "such as Europe/Berlin") from None
    number = job.rpartition("-")[2]
    minutes, present = int(number) if number.isdecimal() else 0, now.timestamp() / 60
    near = present - OLDEST_MINUTES <= minutes <= present + NEWEST_MINUTES
    scheduled = datetime.datetime.fromtimestamp(minutes * 60, datetime.UTC) if near else now
    return scheduled.astimezone(where).date()


def check_config(path: str, entrypoint: str) -> None:
    """Loads the config as the job's entrypoint will, with its overrides; asks no storage.

    Raises:
        ConfigError: the job would refuse the config, or has another one.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--set", action="append", default=[])
    try:
        asked, words = parser.parse_known_args(shlex.split(entrypoint))
    except ValueError as error:
        raise ConfigError("is not a command", "entrypoint", entrypoint, str(error)) from None
    if path not in words:
        hint = "name the same file in the CronJob's command and in the RayJob's entrypoint"
        raise ConfigError("is not the config that the job runs", path, entrypoint, hint)
    # No night has this date, so its place in the path is that of `{run_date}`.
    never = datetime.date.min
    if load_config(path, asked.set, never).output.path.rpartition("/")[2] != never.isoformat():
        hint = "such as s3://bucket/embeddings/{run_date}"
        raise ConfigError("a night needs {run_date} as the last part of output.path", path, hint=hint)


def night(template: dict[str, Any], date: datetime.date) -> dict[str, Any]:
    """Makes the RayJob of a date from the template, as the API returns it."""
    meta, spec = template["metadata"], copy.deepcopy(template["spec"])
    queue = meta.get("annotations", {}).get(QUEUE)
    spec["suspend"] = bool(queue)
    spec["entrypoint"] = spec["entrypoint"].replace("{run_date}", date.isoformat())
    if date.isoformat() not in spec["entrypoint"]:
        raise ConfigError("has no {run_date} in its entrypoint", meta["name"], spec["entrypoint"])
    labels = meta.get("labels", {}) | {NIGHT_OF: meta["name"], DATE: date.isoformat()}
    labels |= {QUEUED_IN: queue} if queue else {}
    made = {"name": f"{meta['name']}-{date.isoformat()}", "namespace": meta["namespace"], "labels": labels}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": made, "spec": spec}


def schedule(api: Api, template: str, config: str, date: datetime.date, keep: int) -> str:
    """Makes the job of a date, and removes finished old ones; returns what it did, in words.

    Raises:
        ConfigError: the template does not exist, or the job would refuse its config.
        IncompleteError: the job of another night is not finished.
    """
    status, found = api.call("GET", f"/{template}")
    if status == 404:
        raise ConfigError("no such RayJob", template, hint="apply the manifests first")
    wanted = night(found, date)
    check_config(config, wanted["spec"]["entrypoint"])
    name = wanted["metadata"]["name"]
    _, others = api.call("GET", f"?labelSelector={NIGHT_OF}%3D{template}")
    nights = others["items"]
    for job in nights:
        if job["metadata"]["name"] == name:
            return f"{name} exists already{_remedy(job)}"
    for job in nights:
        if not _finished(job):
            state = _state(job) or "not yet seen by KubeRay"
            hint = "the next try is tomorrow; `kubectl create job --from=cronjob/…` starts one sooner"
            raise IncompleteError(
                "the job of another night is not finished", job["metadata"]["name"], state, hint
            )
    status, _ = api.call("POST", body=wanted)
    for job in _old(nights, keep):
        api.call("DELETE", f"/{job['metadata']['name']}")
    return f"{name} exists already" if status == 409 else f"{name} is made"


def _old(nights: list[dict[str, Any]], keep: int) -> list[dict[str, Any]]:
    """Returns the jobs to remove: all except the newest `keep`, which include the night made just now.

    A job that was made by hand, without a date, stays, because its age is unknown.
    """
    dated = {}
    for job in nights:
        meta = job["metadata"]
        try:
            dated[datetime.date.fromisoformat(meta["labels"].get(DATE, ""))] = job
        except ValueError:
            print(
                f"{meta['name']}: stays, because its label {DATE} is not a date; delete it by hand",
                file=sys.stderr,
            )
    return [dated[date] for date in sorted(dated)[: max(0, len(dated) + 1 - keep)]]


def _state(job: dict[str, Any]) -> str:
    return str(job.get("status", {}).get("jobDeploymentStatus", ""))


def _finished(job: dict[str, Any]) -> bool:
    return _state(job) in FINISHED


def _remedy(job: dict[str, Any]) -> str:
    """Returns what to do with a night that was made before; nothing unless it has failed."""
    name = job["metadata"]["name"]
    remedy = f", and has failed; `kubectl delete rayjob {name}`, then make it again: it resumes"
    return remedy if _state(job) in FAILED else ""


def main() -> int:
    """Runs the command; returns 2 if a person must help, 3 if the job is refused, 4 if a retry may help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--template", required=True, help="name of the suspended RayJob")
    parser.add_argument("--config", required=True, help="path of the config that its entrypoint names")
    parser.add_argument("--job", required=True, help="name of the CronJob's Job that this pod belongs to")
    parser.add_argument("--time-zone", default="Etc/UTC", help="time zone of the schedule")
    parser.add_argument("--keep", type=int, default=14, help="number of finished jobs that stay")
    parser.add_argument("--api", help="URL of Kubernetes' API (default: the pod's own)")
    parser.add_argument("--account", type=Path, default=ACCOUNT, help="folder of token and namespace")
    asked = parser.parse_args()
    try:
        date = run_date(asked.job, asked.time_zone, datetime.datetime.now(datetime.UTC))
        print(schedule(Api(asked.api, asked.account), asked.template, asked.config, date, asked.keep))
    except PipelineError as error:
        print(f"exit {int(error.exit_code)}: {error}", file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main())
