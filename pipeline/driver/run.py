"""A run from start to end: who am I, what is planned, what is there, do the rest, commit."""

import datetime
import json
import os
import platform
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline import telemetry
from pipeline.config.sections import Config
from pipeline.dataset import commit
from pipeline.dataset.commit import Ending
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.ledger import Ledger
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed import on_ray
from pipeline.embed.job import Job, versions
from pipeline.errors import (
    STOPPED,
    ExitCode,
    OtherDatasetError,
    PipelineError,
    StoppedError,
    StorageError,
)
from pipeline.model.check import usable_checkpoint
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import Recipe
from pipeline.nightly import Facts, Series, reuse, series_folder
from pipeline.nightly.reuse import Base
from pipeline.operate import report
from pipeline.operate.progress import Progress, Total
from pipeline.plan.changes import moved_sources
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan
from pipeline.plan.sizing import payload_bytes
from pipeline.sanitize import printable
from pipeline.telemetry.liveness import Standing


def run(config: Config, quiet: bool = False) -> Ending:
    """Do what is left of a job; where its output is one of a series, readers follow it from then on.

    Raises:
        PipelineError: the run could not be done; its exit code says what a retry would mend.
    """
    model = usable_checkpoint(config)
    identity = Identity.of(config, model)
    config = config.absolute()  # not before: where things lie is no part of the identity
    dataset = Dataset.of(config)
    dataset.refuse_unconditional()
    if dataset.refuse_other(identity) and (done := commit.finished(dataset)):
        # Before the sources are looked at, which may be gone, or closed to us.
        _let_readers_follow(config, dataset)
        commit.sweep(dataset)
        return _unless_moved(config, dataset, done)
    on_ray.refuse_private_output(config.output.path, config.output.options)
    frozen = frozen_plan(config, dataset, identity, model)
    base = reuse.adopted(dataset, identity, config.output.options)
    ending = _attempt(dataset, frozen, _job(config, model, identity, frozen, base), identity, quiet)
    if commit.finished(dataset):
        _let_readers_follow(config, dataset)
    return ending


def frozen_plan(config: Config, dataset: Dataset, identity: Identity, model: Checkpoint) -> Plan:
    """The dataset's plan; made and frozen where there is none yet, and the base chosen with it.

    Raises:
        ConfigError: there is no such base.
        OtherDatasetError: a rival with another config was faster.
    """
    found = dataset.plan()
    # Claimed only once a plan could be made: a mistake in the config must not leave a dataset behind.
    made = None if found else make_plan(config, model, identity.dataset_digest)
    anew = dataset.claim(identity, config, reuse.chosen(config) if made else None)
    if made:
        found = dataset.freeze(made.to_bytes())
        telemetry.event("plan frozen", splits=len(made.split_ids))
    elif anew and found:  # the dataset was removed after we had read its plan
        found = dataset.freeze(found)
    if anew and dataset.complete():  # of one that was removed: its driver slept, and was late
        dataset.storage.remove(dataset.layout.success)
    frozen = Plan.from_bytes(found or b"")
    if frozen.dataset_digest != identity.dataset_digest:
        raise OtherDatasetError(
            "the plan is another config's", dataset.layout.plan, hint="use a new output.path"
        )
    return frozen


def _attempt(dataset: Dataset, frozen: Plan, job: Job, identity: Identity, quiet: bool) -> Ending:
    about = {"versions": versions(), "device": job.config.compute.device}
    with _recorded(dataset, job.attempt, about) as ended:
        # Only now, when the attempt can be seen: a prune looks for it after it has said that it removes.
        claim = dataset.held(frozen.dataset_digest)
        job = replace(job, claim=claim)
        present = dataset.shards()
        pending = frozen.pending(present)
        failures, figures = _flow(dataset, frozen, pending, job, identity, quiet)
        told = {"attempt": job.attempt, "versions": versions()} | figures
        # Where none was missing none has come since: listing a million once is enough.
        whole = None if len(pending.split_ids) else present
        tell = _report(dataset, frozen, job.config)
        ending = commit.commit(dataset, frozen, failures, job.config.quality, told, tell, whole, claim)
        ended |= {"code": int(ending.code), "reason": ending.reason, "summary": ending.summary}
    return ending


def _report(dataset: Dataset, frozen: Plan, config: Config) -> commit.Report:
    """What makes the report of an ending."""

    def made(ending: Ending, records: pa.Table) -> bytes | None:
        about = ending.code, ending.reason, ending.summary
        page = report.attempted(report.Subject(config, dataset, frozen, *about, records))
        return page and page + commit.mark(ending)

    return made


def _let_readers_follow(config: Config, dataset: Dataset) -> None:
    """Move LATEST.json on; also for one that was complete before, whose driver may not have come to it."""
    output = config.output
    if (folder := series_folder(output)) and output.run_date:
        name = dataset.layout.root.rpartition("/")[2]
        Series(folder, output.options).advance(name, output.run_date, Facts.of(dataset))


def _unless_moved(config: Config, dataset: Dataset, ending: Ending) -> Ending:
    """The ending of a dataset that was complete before, if the source is still as it was planned."""
    planned = dataset.frozen_plan()
    if planned is None:
        hint = "run again when it is gone"
        raise StoppedError("is being removed: it has no plan any more", dataset.layout.root, hint=hint)
    moved = moved_sources(config, planned)
    if not moved:
        return ending
    reason = f"complete, but the source has moved on: {len(moved)} files differ, {moved[0]} among them"
    reason += "; embed what is there now into a new output.path"
    return Ending(ExitCode.SOURCE_MOVED, reason, ending.summary, ending.output)


def _job(config: Config, model: Checkpoint, identity: Identity, frozen: Plan, base: Base | None) -> Job:
    return Job(
        config=config,
        columns=frozen.columns,
        recipe=Recipe.of(model, config.model),
        revision=model.revision,
        vector_digest=identity.vector_digest,
        dataset_digest=identity.dataset_digest,
        tokenizer_digest=model.tokenizer_digest,
        attempt=f"{_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        base=base.path if base else None,
        base_digests=base.digests if base else None,
        payload_bytes=payload_bytes(frozen, config, model),
    )


def _flow(
    dataset: Dataset, frozen: Plan, pending: Plan, job: Job, identity: Identity, quiet: bool
) -> tuple[list[Failure], dict[str, Any]]:
    """Do the pending splits; the failures among them, and figures of the run."""
    failures: list[Failure] = []
    ledger = Ledger(dataset, job.attempt)
    progress = Progress(Total.of(frozen, pending), job.attempt, quiet)
    if len(pending.split_ids):
        # Ray is ended by this function, which learns why it ends; a generator that is closed does not.
        with (
            progress,
            ExitStack() as ray,
            closing(_arrivals(dataset, pending, job, identity, progress.stand, ray)) as arrivals,
        ):
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
        **progress.figures.sums(),
        "storage_requests": dict(telemetry.requests),
        "storage_retries": dict(telemetry.retries),
    }


def _arrivals(
    dataset: Dataset,
    pending: Plan,
    job: Job,
    identity: Identity,
    tell: Callable[[Standing], None],
    ray: ExitStack,
) -> Generator[ShardRecord | Failure, None, None]:
    """What becomes of the pending splits: those that can be copied first, then what the flow does.

    Args:
        tell: hears who is at which stage, every few seconds.
        ray: where Ray is entered, once there is work for it.
    """
    copied: set[str] = set()
    if job.base:
        base = reuse.base_of(job.base, job.config.output.options, job.base_digests)
        for record in reuse.copy(base, dataset, identity, pending):
            copied.add(record.split_id)
            yield record
        telemetry.event("shards copied", base=job.base, shards=len(copied), of=len(pending.split_ids))
        pending = pending.pending(copied)
        if not len(pending.split_ids):
            return
    ray.enter_context(on_ray.cluster())
    if job.base:
        _match(dataset, pending, job, base)
    yield from on_ray.run(pending, job, tell)


def _match(dataset: Dataset, pending: Plan, job: Job, base: Base) -> None:
    """Look the pending splits' texts up in the whole base, once for all attempts at the dataset."""
    store, done = dataset.storage, dataset.layout.matches_done
    if job.config.reuse.match == "dataset" and not store.exists(done):
        telemetry.event("matching", base=base.path, splits=len(pending.split_ids))
        telemetry.event("matched", documents=on_ray.match(pending, job, base))
        store.put(done, b"")


@contextmanager
def _recorded(dataset: Dataset, attempt: str, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Leave beside the ledger when an attempt started and how it ended, for `status` to tell."""
    path = dataset.layout.attempt(attempt)
    record: dict[str, Any] = {
        "attempt": attempt,
        "started": _now().isoformat(timespec="seconds"),
        "host": platform.node(),
        "pid": os.getpid(),
        **about,
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
        record |= {"code": int(ExitCode.BUG), "reason": printable(repr(error))}
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
