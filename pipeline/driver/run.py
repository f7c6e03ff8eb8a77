"""Runs a job from start to end: identity, plan, existing shards, pending splits, commit."""

import secrets
from dataclasses import replace

from pipeline import telemetry
from pipeline.config.sections import Config
from pipeline.dataset.commit_files import sweep
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult, finished
from pipeline.dataset.field_ids import field_ids
from pipeline.dataset.identity import Identity
from pipeline.driver.attempt import attempt, now
from pipeline.driver.changes import changes_of_night
from pipeline.embed import on_ray
from pipeline.embed.job import Job
from pipeline.errors import ExitCode, IncompleteError, OtherDatasetError, StoppedError
from pipeline.model.check import usable_checkpoint
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.nightly import DatasetFacts, Series, series_folder
from pipeline.nightly.base import Base
from pipeline.nightly.choose_base import recorded_base, resolve_base
from pipeline.nightly.field_ids import known_field_ids
from pipeline.plan.changes import moved_sources
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan
from pipeline.plan.sizing import payload_bytes


def run(config: Config, quiet: bool = False) -> RunResult:
    """Runs what is left of a job; if its output belongs to a series, readers follow it from then on.

    Raises:
        PipelineError: the run failed; its exit code says whether a retry can help.
    """
    model = usable_checkpoint(config)
    identity = Identity.of(config, model)
    config = config.absolute()  # not before: paths are not part of the identity
    dataset = Dataset.of(config)
    dataset.refuse_unconditional()
    if dataset.refuse_other(identity) and (done := finished(dataset)):
        # Before the sources are listed: they may be gone, or we may lack access.
        done = _publish(config, dataset, done)
        sweep(dataset)
        return _unless_moved(config, dataset, done)
    on_ray.refuse_private_output(config.output.path, config.output.options)
    frozen = frozen_plan(config, dataset, identity, model)
    base = recorded_base(dataset, identity, config.output.options)
    ending = attempt(dataset, frozen, _job(config, model, identity, frozen, base), identity, quiet)
    return _publish(config, dataset, ending) if finished(dataset) else ending


def frozen_plan(config: Config, dataset: Dataset, identity: Identity, model: Checkpoint) -> Plan:
    """Returns the dataset's plan; if there is none yet, makes and freezes it, and chooses the base.

    Raises:
        ConfigError: the base that the config names does not exist.
        OtherDatasetError: a rival with another config was faster.
    """
    found = dataset.plan_bytes()
    # Claimed only after the plan is made: a mistake in the config must not leave a dataset behind.
    made = None if found else make_plan(config, model, identity.dataset_digest)
    if made:
        _refuse_empty(made, config)
    base = resolve_base(config) if made else None
    anew = dataset.claim(identity, config, base)
    if made:
        known = known_field_ids(config.output, base)
        made = replace(made, field_ids=field_ids(identity.shard_schema(made.columns), known))
        found = dataset.freeze(made.to_bytes())
        telemetry.event("plan frozen", splits=len(made.split_ids))
    elif anew and found:  # the dataset was removed after we had read its plan
        found = dataset.freeze(found)
    if anew and dataset.complete():  # left by the slow driver of a removed dataset
        dataset.storage.remove(dataset.layout.success)
    frozen = Plan.from_bytes(found or b"")
    if frozen.dataset_digest != identity.dataset_digest:
        raise OtherDatasetError(
            "the plan is another config's", dataset.layout.plan, hint="use a new output.path"
        )
    return frozen


def _refuse_empty(made: Plan, config: Config) -> None:
    """Refuses a source without rows before anything is written, so that a later run finds what came since.

    Raises:
        IncompleteError: there is no row, and the config does not allow that.
    """
    if not (made.has_rows or made.failed_files or config.quality.allow_empty):
        raise IncompleteError(
            "no source has a row, so no dataset is made",
            ", ".join(source.path for source in config.source.values()),
            made.not_read,
            "run again when there are rows; if this is right, set quality.allow_empty",
        )


def _publish(config: Config, dataset: Dataset, ending: RunResult) -> RunResult:
    """Makes the changes since the base if they are wanted, then lets readers follow a complete dataset.

    In this order, so that who follows LATEST.json finds the changes.
    """
    made = changes_of_night(config, dataset)
    _let_readers_follow(config, dataset)
    return replace(ending, summary={**ending.summary, "changes": made.counts}) if made else ending


def _let_readers_follow(config: Config, dataset: Dataset) -> None:
    """Advances LATEST.json; also for a dataset that was complete before, whose driver may have missed it."""
    output = config.output
    if (folder := series_folder(output)) and output.run_date:
        name = dataset.layout.root.rpartition("/")[2]
        Series(folder, output.options).advance(name, output.run_date, DatasetFacts.of(dataset))


def _unless_moved(config: Config, dataset: Dataset, ending: RunResult) -> RunResult:
    """Returns the ending of a dataset that was complete before, or says that its source has changed since."""
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
        recipe=EmbeddingSpec.of_config(model, config),
        outputs=identity.outputs,
        revision=model.revision,
        engine=model.engine,
        vector_digest=identity.vector_digest,
        dataset_digest=identity.dataset_digest,
        tokenizer_digest=model.tokenizer_digest,
        attempt=f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        base=base.path if base else None,
        base_digests=base.digests if base else None,
        field_ids=frozen.field_ids,
        payload_bytes=payload_bytes(frozen, config, model),
    )
