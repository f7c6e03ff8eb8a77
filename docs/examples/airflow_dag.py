"""Runs each night in a pod by Airflow (2.9 or newer), and tries again only what a retry can help."""

import datetime
from typing import Any

from airflow import DAG
from airflow.exceptions import AirflowException, AirflowFailException
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

AGAIN = {4, 137, None}
"""Codes after which a retry helps: ours; SIGKILL, if the pod ran out of memory; none, if the pod was lost."""


class EmbedOperator(KubernetesPodOperator):
    """Fails for good after any other exit code. The operator's error holds our last line in any case."""

    def cleanup(self, pod: Any, remote_pod: Any, *rest: Any, **more: Any) -> None:
        try:
            super().cleanup(pod, remote_pod, *rest, **more)
        except AirflowException as error:
            if exit_code(remote_pod, self.base_container_name) not in AGAIN:
                raise AirflowFailException(str(error)) from error
            raise


def exit_code(pod: Any, container: str) -> int | None:
    """Returns the exit code of a container; None if there is none."""
    for status in pod.status.container_statuses or []:
        if status.name == container and status.state.terminated:
            return int(status.state.terminated.exit_code)
    return None


with DAG(
    dag_id="embed_nightly",
    schedule="15 2 * * *",
    start_date=datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": datetime.timedelta(minutes=10)},
):
    EmbedOperator(
        task_id="embed",
        name="embed",
        namespace="embeddings",
        image="registry.example.com/albert-embed:0.1.0",
        cmds=["albert-embed", "nightly", "/app/configs/nightly.yaml"],
        # The day of the DAG's run, not of the try: a retry after midnight continues with the same dataset.
        arguments=["--run-date", "{{ data_interval_end | ds }}"],
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "8", "memory": "32Gi", "ephemeral-storage": "12Gi"},
            limits={"memory": "32Gi", "ephemeral-storage": "42Gi"},
        ),
        termination_grace_period=60,
        execution_timeout=datetime.timedelta(hours=20),
        on_finish_action="delete_succeeded_pod",
    )
