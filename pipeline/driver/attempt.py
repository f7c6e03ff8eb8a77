"""Makes one attempt at a dataset: copies, matches and embeds pending splits, commits, records the ending."""

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline import telemetry
from pipeline.config.sections import Config
from pipeline.dataset.commit import CommitRequest, commit
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import Report, RunResult, mark
from pipeline.dataset.identity import Identity
from pipeline.dataset.ledger import Ledger
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed import on_ray
from pipeline.embed.job import Job, versions
from pipeline.errors import STOPPED, ExitCode, PipelineError, StorageError
from pipeline.nightly.base import Base, base_of
from pipeline.nightly.copy_shards import copy_shards
from pipeline.operate import report
from pipeline.operate.progress import Progress, RunTotal
from pipeline.plan.plan import Plan
from pipeline.sanitize import printable
from pipeline.telemetry.liveness import Replicas, StagesStatus

NOTE_SECONDS = 60.0
"""Seconds between two writes of an attempt's record while it waits for nodes."""


def attempt(dataset: Dataset, frozen: Plan, job: Job, identity: Identity, quiet: bool) -> RunResult:
    """Processes the pending splits of a dataset and commits it; records the attempt beside the ledger."""
    about = {"versions": versions(), "device": job.config.compute.device}
    with _recorded(dataset, job.attempt, about) as record:
        # Only after the attempt is recorded: a prune looks for attempts after it has marked the removal.
        claim = dataset.held(frozen.dataset_digest)
        job = replace(job, claim=claim)
        present = dataset.shards()
        pending = frozen.pending(present)
        failures, figures = _flow(dataset, frozen, pending, job, identity, record, quiet)
        told = {"attempt": job.attempt, "versions": versions()} | figures
        # If no shard was missing, none has come since: so a million shards are listed only once.
        whole = None if len(pending.split_ids) else present
        tell = make_report(dataset, frozen, job.config)
        ending = commit(
            CommitRequest(dataset, frozen, failures, job.config.quality, told, tell, whole, claim)
        )
        record.ended |= {"code": int(ending.code), "reason": ending.reason, "summary": ending.summary}
    return ending


def make_report(dataset: Dataset, frozen: Plan, config: Config) -> Report:
    """Returns the function that makes the report of an ending."""

    def made(ending: RunResult, records: pa.Table) -> bytes | None:
        about = ending.code, ending.reason, ending.summary
        page = report.attempted(report.Subject(config, dataset, frozen, *about, records))
        return page and page + mark(ending)

    return made


def _flow(
    dataset: Dataset,
    frozen: Plan,
    pending: Plan,
    job: Job,
    identity: Identity,
    record: "_Record",
    quiet: bool,
) -> tuple[list[Failure], dict[str, Any]]:
    """Processes the pending splits; returns their failures, and the figures of the run."""
    failures: list[Failure] = []
    ledger = Ledger(dataset, job.attempt)
    progress = Progress(RunTotal.of(frozen, pending), job.attempt, quiet)

    def tell(status: StagesStatus) -> None:
        progress.stand(status)
        record.note(status.replicas)

    if len(pending.split_ids):
        # This function ends Ray, because it learns why the run ends; a closed generator does not.
        with (
            progress,
            ExitStack() as ray,
            closing(_arrivals(dataset, pending, job, identity, tell, ray)) as arrivals,
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
    tell: Callable[[StagesStatus], None],
    ray: ExitStack,
) -> Generator[ShardRecord | Failure, None, None]:
    """Yields the outcomes of the pending splits: first those that are copied, then those from Ray.

    Args:
        tell: gets the status of the stages every few seconds.
        ray: the stack on which Ray is entered, once there is work for it.
    """
    copied: set[str] = set()
    if job.base:
        base = base_of(job.base, job.config.output.options, job.base_digests)
        for record in copy_shards(base, dataset, identity, pending):
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
    """Looks up the texts of the pending splits in the complete base, once for all attempts at the dataset."""
    store, done = dataset.storage, dataset.layout.matches_done
    if job.config.reuse.match == "dataset" and not store.exists(done):
        telemetry.event("matching", base=base.path, splits=len(pending.split_ids))
        telemetry.event("matched", documents=on_ray.match(pending, job, base))
        store.put(done, b"")


class _Record:
    """The record of an attempt, beside the ledger, which `status` shows.

    ended: how it ended, as far as that is known.

    Args:
        about: what the record says from the beginning.
    """

    def __init__(self, dataset: Dataset, attempt: str, about: Mapping[str, Any]) -> None:
        self._storage, self._path = dataset.storage, dataset.layout.attempt(attempt)
        self._started = {
            "attempt": attempt,
            "started": _moment(),
            "host": platform.node(),
            "pid": os.getpid(),
        }
        self._started |= about
        self.ended: dict[str, Any] = {}
        self._noted, self._lacked = -NOTE_SECONDS, False

    def begin(self) -> None:
        """Writes that the attempt has started."""
        self._storage.put(self._path, _json(self._started))

    def note(self, replicas: Replicas) -> None:
        """Writes how many replicas wait for nodes, once a minute, and once that none waits any more."""
        lacks = replicas.placed < replicas.wanted
        if lacks == self._lacked and not (lacks and time.monotonic() - self._noted >= NOTE_SECONDS):
            return
        self._noted, self._lacked = time.monotonic(), lacks
        said = {"placed": replicas.placed, "wanted": replicas.wanted, "at": _moment()}
        self._write(self._started | {"replicas": said})

    def end(self) -> None:
        """Writes how the attempt ended."""
        self._write(self._started | self.ended | {"ended": _moment()})

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._storage.put(self._path, _json(record))
        except StorageError as error:  # it must not end the run, or hide how it ended
            telemetry.event("attempt not recorded", reason=str(error))


@contextmanager
def _recorded(dataset: Dataset, attempt: str, about: Mapping[str, Any]) -> Iterator[_Record]:
    """Records beside the ledger when an attempt started and how it ended."""
    record = _Record(dataset, attempt, about)
    record.begin()
    try:
        yield record
    except PipelineError as error:
        record.ended |= {"code": int(error.exit_code), "reason": str(error).splitlines()[0]}
        raise
    except (KeyboardInterrupt, SystemExit):
        record.ended |= {"code": int(ExitCode.RETRYABLE), "reason": STOPPED}
        raise
    except Exception as error:
        record.ended |= {"code": int(ExitCode.BUG), "reason": printable(repr(error))}
        raise
    finally:
        record.end()


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _moment() -> str:
    return now().isoformat(timespec="seconds")


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
