"""A run from start to end: who am I, what is planned, what is there, do the rest, commit."""

import secrets

from pipeline import telemetry
from pipeline.config.sections import Config
from pipeline.dataset.commit_files import sweep
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult, finished
from pipeline.dataset.identity import Identity
from pipeline.driver.attempt import attempt, now
from pipeline.embed import on_ray
from pipeline.embed.job import Job
from pipeline.errors import ExitCode, OtherDatasetError, StoppedError
from pipeline.model.check import usable_checkpoint
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.nightly import DatasetFacts, Series, series_folder
from pipeline.nightly.base import Base
from pipeline.nightly.choose_base import recorded_base, resolve_base
from pipeline.plan.changes import moved_sources
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan
from pipeline.plan.sizing import payload_bytes


def run(config: Config, quiet: bool = False) -> RunResult:
    """Do what is left of a job; where its output is one of a series, readers follow it from then on.

    Raises:
        PipelineError: the run could not be done; its exit code says what a retry would mend.
    """
    model = usable_checkpoint(config)
    identity = Identity.of(config, model)
    config = config.absolute()  # not before: where things lie is no part of the identity
    dataset = Dataset.of(config)
    dataset.refuse_unconditional()
    if dataset.refuse_other(identity) and (done := finished(dataset)):
        # Before the sources are looked at, which may be gone, or closed to us.
        _let_readers_follow(config, dataset)
        sweep(dataset)
        return _unless_moved(config, dataset, done)
    on_ray.refuse_private_output(config.output.path, config.output.options)
    frozen = frozen_plan(config, dataset, identity, model)
    base = recorded_base(dataset, identity, config.output.options)
    ending = attempt(dataset, frozen, _job(config, model, identity, frozen, base), identity, quiet)
    if finished(dataset):
        _let_readers_follow(config, dataset)
    return ending


def frozen_plan(config: Config, dataset: Dataset, identity: Identity, model: Checkpoint) -> Plan:
    """The dataset's plan; made and frozen where there is none yet, and the base chosen with it.

    Raises:
        ConfigError: there is no such base.
        OtherDatasetError: a rival with another config was faster.
    """
    found = dataset.plan_bytes()
    # Claimed only once a plan could be made: a mistake in the config must not leave a dataset behind.
    made = None if found else make_plan(config, model, identity.dataset_digest)
    anew = dataset.claim(identity, config, resolve_base(config) if made else None)
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


def _let_readers_follow(config: Config, dataset: Dataset) -> None:
    """Move LATEST.json on; also for one that was complete before, whose driver may not have come to it."""
    output = config.output
    if (folder := series_folder(output)) and output.run_date:
        name = dataset.layout.root.rpartition("/")[2]
        Series(folder, output.options).advance(name, output.run_date, DatasetFacts.of(dataset))


def _unless_moved(config: Config, dataset: Dataset, ending: RunResult) -> RunResult:
    """The ending of a dataset that was complete before, if the source is still as it was planned."""
    planned = dataset.plan()
    if planned is None:
        hint = "run again when it is gone"
        raise StoppedError("is being removed: it has no plan any more", dataset.layout.root, hint=hint)
    moved = moved_sources(config, planned)
    if not moved:
        return ending
    reason = f"complete, but the source has moved on: {len(moved)} files differ, {moved[0]} among them"
    reason += "; embed what is there now into a new output.path"
    return RunResult(ExitCode.SOURCE_MOVED, reason, ending.summary, ending.output)


def _job(config: Config, model: Checkpoint, identity: Identity, frozen: Plan, base: Base | None) -> Job:
    return Job(
        config=config,
        columns=frozen.columns,
        recipe=EmbeddingSpec.of(model, config.model),
        revision=model.revision,
        vector_digest=identity.vector_digest,
        dataset_digest=identity.dataset_digest,
        tokenizer_digest=model.tokenizer_digest,
        attempt=f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        base=base.path if base else None,
        base_digests=base.digests if base else None,
        payload_bytes=payload_bytes(frozen, config, model),
    )
