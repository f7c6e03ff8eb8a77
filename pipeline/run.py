"""A run from start to end: who am I, what is planned, what is there, do the rest, commit."""

import datetime
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from pipeline import commit, flow, plan, telemetry
from pipeline.checkpoint import Checkpoint
from pipeline.commit import Ending
from pipeline.config import Config
from pipeline.dataset import Dataset, Identity, Ledger
from pipeline.errors import STOPPED, ExitCode, MissingError, OtherDatasetError, PipelineError, StorageError
from pipeline.plan import Plan
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.stages import Failure, Job, usable_checkpoint


def run(config: Config, quiet: bool = False) -> Ending:
    """Do what is left of a job.

    Raises:
        PipelineError: the run could not be done; its exit code says what a retry would mend.
    """
    model = usable_checkpoint(config)
    identity = Identity.of(config, model)
    config = config.absolute()  # not before: where things lie is no part of the identity
    dataset = Dataset.of(config)
    dataset.refuse_unconditional()
    if dataset.refuse_other(identity) and dataset.complete():
        return _already_complete(config, dataset)
    flow.refuse_private_output(config.output.path, config.output.options)
    frozen = frozen_plan(config, dataset, identity, model)
    attempt = f"{_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    with _recorded(dataset, attempt) as ended:
        failures, figures = _flow(dataset, frozen, _job(config, model, identity, frozen, attempt), quiet)
        ending = commit.commit(dataset, frozen, failures, config.quality, {"attempt": attempt} | figures)
        ended |= {"code": int(ending.code), "reason": ending.reason, "summary": ending.summary}
    return ending


def frozen_plan(config: Config, dataset: Dataset, identity: Identity, model: Checkpoint) -> Plan:
    """The dataset's plan; made and frozen where there is none yet.

    Raises:
        OtherDatasetError: a rival with another config was faster.
    """
    found = dataset.plan()
    # Claimed only once a plan could be made: a mistake in the config must not leave a dataset behind.
    made = None if found else plan.make(config, model, identity.dataset_digest)
    dataset.claim(identity, config)
    if made:
        found = dataset.freeze(made.to_bytes())
        telemetry.event("plan frozen", splits=len(made.split_ids))
    frozen = Plan.from_bytes(found or b"")
    if frozen.dataset_digest != identity.dataset_digest:
        raise OtherDatasetError(
            "the plan is another config's", dataset.layout.plan, hint="use a new output.path"
        )
    return frozen


def moved_sources(config: Config, frozen: Plan) -> list[str]:
    """Files that came, went or changed since the plan was frozen."""
    try:
        now = plan.current_versions(config)
    except MissingError:
        now = {}
    planned = frozen.versions()
    return sorted("/".join(key) for key in now.keys() | planned.keys() if now.get(key) != planned.get(key))


def _already_complete(config: Config, dataset: Dataset) -> Ending:
    ending = commit.committed(dataset)
    moved = moved_sources(config, Plan.from_bytes(dataset.plan() or b""))
    if not moved:
        return ending
    reason = f"complete, but the source has moved on: {len(moved)} files differ, {moved[0]} among them"
    return Ending(ExitCode.SOURCE_MOVED, reason, ending.summary)


def _job(config: Config, model: Checkpoint, identity: Identity, frozen: Plan, attempt: str) -> Job:
    return Job(
        config=config,
        columns=frozen.columns,
        recipe=Recipe.of(model, config.model),
        revision=model.revision,
        vector_digest=identity.vector_digest,
        tokenizer_digest=model.tokenizer_digest,
        attempt=attempt,
    )


def _flow(dataset: Dataset, frozen: Plan, job: Job, quiet: bool) -> tuple[list[Failure], dict[str, Any]]:
    """Do the pending splits; the failures among them, and figures of the run."""
    present = dataset.shards()
    pending = frozen.pending(present)
    failures: list[Failure] = []
    ledger = Ledger(dataset, job.attempt)
    progress = Progress(len(frozen.split_ids), len(frozen.split_ids) - len(pending.split_ids), quiet)
    if len(pending.split_ids):
        with progress, closing(flow.run(pending, job)) as arrivals:
            try:
                for arrived in arrivals:
                    progress.add(arrived)
                    if isinstance(arrived, Failure):
                        telemetry.event("split failed", split=arrived.split_id, reason=arrived.message)
                        failures.append(arrived)
                    else:
                        ledger.add(arrived)
            finally:
                ledger.flush()
    return failures, {
        "splits": progress.done,
        "rows": progress.rows,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "storage_requests": dict(telemetry.requests),
        "storage_retries": dict(telemetry.retries),
    }


@contextmanager
def _recorded(dataset: Dataset, attempt: str) -> Iterator[dict[str, Any]]:
    """Leave beside the ledger when an attempt started and how it ended, for `status` to tell."""
    path = dataset.layout.attempt(attempt)
    record: dict[str, Any] = {
        "attempt": attempt,
        "started": _now().isoformat(timespec="seconds"),
        "host": platform.node(),
        "pid": os.getpid(),
    }
    dataset.storage.put(path, _json(record))
    try:
        yield record
    except PipelineError as error:
        record |= {"code": int(error.exit_code), "reason": str(error).splitlines()[0]}
        raise
    except (KeyboardInterrupt, SystemExit):
        record |= {"code": int(ExitCode.RETRYABLE), "reason": STOPPED}
        raise
    except Exception as error:
        record |= {"code": int(ExitCode.BUG), "reason": repr(error)}
        raise
    finally:
        record["ended"] = _now().isoformat(timespec="seconds")
        try:
            dataset.storage.put(path, _json(record))
        except StorageError as error:  # must not hide how the run ended
            telemetry.event("attempt not recorded", reason=str(error))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
