"""Tries again the rejects that another try may fix, in a new dataset that reuses the rest of the old one.

A committed shard is never written again. So shards without such rejects are copied. The others are made again
from the vectors that they have, and only rejected rows are embedded.
"""

from pipeline import schema, telemetry
from pipeline.config.sections import Config, Reuse
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult, committed
from pipeline.driver.run import run
from pipeline.errors import ConfigError, ExitCode
from pipeline.nightly.names import retry_of
from pipeline.plan.changes import moved_sources


def retry_rejects(config: Config, to: str | None = None, quiet: bool = False) -> RunResult:
    """Tries the transient rejects of a complete dataset again, in a new one.

    Args:
        to: the path of the new dataset; if not given, `<name>-retry<n>` beside the old one. An unfinished
            dataset of an earlier call is continued; if it is complete, the next number is used.

    Raises:
        ConfigError: the dataset is not complete.
        OtherDatasetError: it is of another version of the format.
        PipelineError: the errors of `run`.
    """
    # The sources stay as the config has them: `run` digests them, and otherwise no shard could be copied.
    output = config.absolute().output
    base, path, number = output.path, to or retry_of(output.path, 1), 1
    if not Dataset(base, output.options).complete():
        raise ConfigError("is not complete", base, hint="run the config first")
    while to is None and Dataset(path, output.options).complete():
        number += 1
        base, path = path, retry_of(output.path, number)
    found = Dataset(base, output.options)
    found.identity()  # refuses another version: nothing of it could be reused
    if not _transient(found):
        summary = committed(found).summary
        return RunResult(ExitCode.DONE, "no reject can be fixed by another try", summary, base)
    moved = moved_sources(config, found.required_plan())
    if moved and Dataset(path, output.options).plan_bytes() is None:
        # The rows of the old one can't be read again: the present sources need a run of their own.
        reason = (
            f"the source has moved on: {len(moved)} files differ, {moved[0]} among them; make a new dataset"
        )
        return RunResult(ExitCode.SOURCE_MOVED, reason, committed(found).summary, base)
    telemetry.event("trying rejects again", dataset=base, rows=_transient(found), into=path)
    reuse = Reuse(base=base, changes=config.reuse.changes)
    retried = {"output": output.model_copy(update={"path": path}), "reuse": reuse}
    return run(config.model_copy(update=retried), quiet)


def _transient(dataset: Dataset) -> int:
    return int(schema.total(dataset.manifest(), "transient"))
