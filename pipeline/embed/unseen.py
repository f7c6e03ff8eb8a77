"""Checks, in the driver, the files that workers did not see, before it calls one changed or gone.

A shard is final, but a node's view of a file is not: mounts come and go, caches are stale, a store may refuse
for a moment. So no shard is made from a split with an unseen file. If the driver finds the file as it was
planned, the next run does the split. A file that has changed does not change back: its splits are done again
without it. A file that is gone may come back: its splits are done without it only if the config allows failed
files.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage, telemetry
from pipeline.config.sections import Config
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed.job import Job
from pipeline.errors import (
    MissingError,
    PipelineError,
    SourceChangedError,
    SourceError,
    SourceGoneError,
    StorageError,
    UnseenError,
)
from pipeline.plan.plan import Plan, piece_of, source_files
from pipeline.source import formats

THREADS = 32
"""Files that are checked side by side: the driver waits for storage more than it works."""
Flow = Callable[[Plan, Job], Iterable[ShardRecord | Failure]]
Found = dict[str, PipelineError]
"""The driver's finding for each file that some worker did not see."""


def settled(pending: Plan, job: Job, flow: Flow) -> Generator[ShardRecord | Failure, None, None]:
    """Runs a flow over splits, and settles those whose files its workers did not see.

    The driver checks these files itself at the end of the flow.
    """
    unseen: list[Failure] = []
    for arrived in flow(pending, job):
        if isinstance(arrived, Failure) and arrived.kind == UnseenError.__name__:
            telemetry.event("split not seen", split=arrived.split_id, reason=arrived.message)
            unseen.append(arrived)
        else:
            yield arrived
    found = _look_again(pending, job.config, unseen)
    without = _settled(found, job.config)
    again = [failure.split_id for failure in unseen if without.keys() >= set(failure.files)]
    yield from (_judged(failure, found) for failure in unseen if failure.split_id not in set(again))
    if again:
        ours = pc.is_in(pending.pieces.column("split_id"), pa.array(again))
        left = replace(pending, pieces=pending.pieces.filter(ours))
        yield from settled(left, replace(job, without={**job.without, **without}), flow)


def _settled(found: Found, config: Config) -> dict[str, SourceChangedError]:
    """Returns the files that splits may be done without."""
    return {
        file: error
        for file, error in found.items()
        if isinstance(error, SourceChangedError)
        and (config.quality.allow_failed_files or not isinstance(error, SourceGoneError))
    }


def _look_again(pending: Plan, config: Config, unseen: Sequence[Failure]) -> Found:
    files = sorted({file for failure in unseen for file in failure.files})
    if not files:
        return {}
    planned = pending.pieces.filter(pc.is_in(source_files(pending.pieces), pa.array(files)))
    pieces = {piece.source_file: piece for piece in map(piece_of, planned.to_pylist())}

    def look(file: str) -> PipelineError:
        piece = pieces[file]
        return _found(lambda: formats.look(piece, config.source[piece.source]), file)

    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(files, pool.map(look, files), strict=True))
    return found | _of_sources_away(found, config)


def _found(look: Callable[[], None], file: str) -> PipelineError:
    try:
        look()
    except MissingError as error:  # it was there at one check and missing at another
        return UnseenError("comes and goes", file, error.finding, "run again")
    except (SourceError, StorageError) as error:
        return error
    return UnseenError(
        "is there as it was planned, but a worker did not see it",
        file,
        hint="run again; if it happens again, check that node's mount and its rights",
    )


def _of_sources_away(found: Found, config: Config) -> Found:
    """Returns an error for each file whose source has no files left: probably the source itself is away."""
    gone = [file for file, error in found.items() if isinstance(error, SourceGoneError)]
    away = {name for name in {file.partition("/")[0] for file in gone} if _is_away(name, config)}
    hint = "mount it, or put its files back, and run again"
    return {
        file: UnseenError("is gone, and so is every file of its source", file, hint=hint)
        for file in gone
        if file.partition("/")[0] in away and config.quality.allow_failed_files
    }


def _is_away(name: str, config: Config) -> bool:
    source = config.source[name]
    try:
        storage.connect(source.path, source.options).glob(source.path, source.hidden)
    except StorageError:
        return True
    return False


def _judged(failure: Failure, found: Found) -> Failure:
    """Returns the failure of a split that stays undone: for causes that may pass, else for lost files."""
    errors = {file: found[file] for file in failure.files}
    passing = {file: each for file, each in errors.items() if not isinstance(each, SourceChangedError)}
    errors = passing or {file: each for file, each in errors.items() if isinstance(each, SourceGoneError)}
    first = next(iter(errors.values()))
    message = str(first)
    if len(errors) > 1 and not passing:
        message = f"{first.what}; {first.hint}"  # the message is repeated for each of them
    elif passing and failure.message:
        message = f"{first} (said there: {failure.message})"
    return replace(
        failure,
        files=tuple(errors),
        exit_code=int(first.exit_code),
        message=message,
        kind=type(first).__name__,
    )
