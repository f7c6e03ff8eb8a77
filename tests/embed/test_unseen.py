"""Tests files that a worker did not see: only the driver's own check decides."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.config.load import parse_config
from pipeline.dataset.commit import CommitRequest, commit
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed.encode import Encode
from pipeline.embed.job import Job
from pipeline.embed.unseen import settled
from pipeline.errors import CrashError, ExitCode, UnseenError
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan
from tests.conftest import texts
from tests.splits import embedded

JobValues = Callable[..., dict[str, Any]]
NAMES = [f"docs/in/{number}.txt" for number in range(4)]
Settled = tuple[list[ShardRecord | Failure], list[Job]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes four files, which are one split."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, text in enumerate(texts(4)):
        (folder / f"{number}.txt").write_text(text)
    return folder


def made(job: JobValues, folder: Path, allow: bool) -> tuple[Plan, Job]:
    # Moving a file away and back changes its inode's change time; a mount that returns does not.
    source = {"docs": {"path": str(folder), "format": "text-files", "options": {"ignore_ctime": True}}}
    quality, output = {"allow_failed_files": allow}, {"rows_per_shard": 1000}
    parsed = parse_config(job(source=source, quality=quality, output=output))
    model = checkpoint.resolve(parsed.model.name)
    identity = Identity.of(parsed, model)
    found = make_plan(parsed, model, identity.dataset_digest)
    assert len(found.split_ids) == 1
    Dataset.of(parsed).claim(identity, parsed, None)
    digests = identity.vector_digest, model.tokenizer_digest
    recipe = EmbeddingSpec.of(model, parsed.model)
    return found, Job(parsed, found.columns, recipe, identity.outputs, None, *digests, "attempt")


def without_ray(job: Job, pending: Plan, between: Callable[[], object]) -> Settled:
    """Runs the three stages one after the other; calls `between` before the driver checks."""
    jobs: list[Job] = []
    encode = Encode(job)

    def flow(pending: Plan, job: Job) -> Iterator[ShardRecord | Failure]:
        jobs.append(job)
        for scan in pending.scans():
            yield from embedded(scan, job, encode)
        between()

    return list(settled(pending, job, flow)), jobs


def nothing() -> None:
    """Does nothing."""


@pytest.mark.parametrize("allow", [False, True])
def test_a_file_that_is_back_when_the_driver_looks_is_for_the_next_run(
    job: JobValues, folder: Path, tmp_path: Path, allow: bool
) -> None:
    pending, told = made(job, folder, allow)
    (folder / "2.txt").rename(tmp_path / "away")
    [failure], jobs = without_ray(told, pending, lambda: (tmp_path / "away").rename(folder / "2.txt"))
    assert isinstance(failure, Failure)
    assert (failure.exit_code, failure.files, len(jobs)) == (ExitCode.RETRYABLE, (NAMES[2],), 1)
    assert "docs/in/2.txt: is there as it was planned, but a worker did not see it; run again" in (
        failure.message
    )
    assert "is gone since it was planned" in failure.message  # what the worker said
    assert not (tmp_path / "out/data").exists()
    dataset = Dataset.of(told.config)
    assert (
        commit(CommitRequest(dataset, pending, [failure], told.config.quality, {})).code == ExitCode.RETRYABLE
    )
    [record], _ = without_ray(told, pending, nothing)
    assert isinstance(record, ShardRecord)
    assert record.rows == 4
    assert commit(CommitRequest(dataset, pending, [], told.config.quality, {})).code == ExitCode.DONE


def test_a_file_that_is_gone_for_the_driver_too_may_still_be_put_back(
    job: JobValues, folder: Path, tmp_path: Path
) -> None:
    pending, told = made(job, folder, allow=False)
    (folder / "2.txt").rename(tmp_path / "away")
    [failure], jobs = without_ray(told, pending, nothing)
    assert isinstance(failure, Failure)
    assert (failure.exit_code, failure.files, len(jobs)) == (ExitCode.INCOMPLETE, (NAMES[2],), 1)
    assert "in/2.txt: is gone since it was planned" in failure.message
    assert "put it back and run again" in failure.message
    (tmp_path / "away").rename(folder / "2.txt")
    [record], _ = without_ray(told, pending, nothing)
    assert isinstance(record, ShardRecord)
    assert (record.rows, [piece["error"] for piece in record.pieces]) == (4, [None] * 4)


def test_a_file_that_is_gone_is_left_out_where_failed_files_are_allowed(job: JobValues, folder: Path) -> None:
    pending, told = made(job, folder, allow=True)
    (folder / "2.txt").unlink()
    [record], jobs = without_ray(told, pending, nothing)
    assert isinstance(record, ShardRecord)
    assert record.rows == 3
    assert [str(list(each.without)) for each in jobs] == ["[]", f"{NAMES[2:3]}"]
    ending = commit(CommitRequest(Dataset.of(told.config), pending, [], told.config.quality, {}))
    assert (ending.code, list(ending.summary["failed_files"])) == (ExitCode.DONE, NAMES[2:3])


def test_a_file_that_has_changed_does_not_change_back(job: JobValues, folder: Path) -> None:
    """Its neighbours are embedded, allowed or not; a second file that changes meanwhile is left out, too."""
    pending, told = made(job, folder, allow=False)
    (folder / "2.txt").write_text("another text")
    also = folder / "0.txt"
    [record], jobs = without_ray(told, pending, lambda: also.write_text("yet another"))
    assert isinstance(record, ShardRecord)
    assert (record.rows, len(jobs)) == (2, 3)
    errors = [piece["error"] for piece in record.pieces]
    assert [bool(error and "changed since it was planned" in error) for error in errors] == [
        True, False, True, False,
    ]  # fmt: skip


def test_several_that_are_gone_are_all_named(job: JobValues, folder: Path) -> None:
    pending, told = made(job, folder, allow=False)
    (folder / "1.txt").unlink()
    (folder / "3.txt").unlink()
    [failure], _ = without_ray(told, pending, nothing)
    assert isinstance(failure, Failure)
    assert failure.files == (NAMES[1], NAMES[3])
    assert failure.message.startswith("is gone since it was planned; put it back")


def test_a_source_of_which_nothing_is_left_is_away_and_not_gone(
    job: JobValues, folder: Path, tmp_path: Path
) -> None:
    """A mount is missing; otherwise a dataset without all its rows would call itself complete."""
    pending, told = made(job, folder, allow=True)
    folder.rename(tmp_path / "away")
    folder.mkdir()  # the empty folder of a mount
    [failure], _ = without_ray(told, pending, nothing)
    assert isinstance(failure, Failure)
    assert failure.exit_code == ExitCode.RETRYABLE
    assert "is gone, and so is every file of its source" in failure.message
    assert not (tmp_path / "out/data").exists()


@pytest.mark.parametrize("kind", [CrashError, UnseenError])
def test_what_is_not_of_a_file_is_never_allowed(job: JobValues, folder: Path, kind: type[Exception]) -> None:
    pending, told = made(job, folder, allow=True)
    [split_id] = pending.split_ids.to_pylist()
    failure = Failure(split_id, tuple(NAMES), "read", ExitCode.INCOMPLETE, "said", kind=kind.__name__)
    dataset = Dataset.of(told.config)
    ending = commit(CommitRequest(dataset, pending, [failure], told.config.quality, {}))
    assert (ending.code, dataset.complete()) == (ExitCode.INCOMPLETE, False)
    assert "4 of the source's files failed: docs/in/0.txt: said" in ending.reason
    of_file = replace(failure, kind="SourceError")
    empty = commit(CommitRequest(dataset, pending, [of_file], told.config.quality, {}))
    assert (empty.code, empty.reason[:35]) == (ExitCode.INCOMPLETE, "no file of the source could be read")
    quality = told.config.quality.model_copy(update={"allow_empty": True})
    assert commit(CommitRequest(dataset, pending, [of_file], quality, {})).code == ExitCode.DONE


def test_a_refusal_is_the_drivers_to_tell(
    job: JobValues, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root, which runs the tests, may read everything, so storage's own open refuses, as for other users."""
    pending, told = made(job, folder, allow=True)
    store = storage.connect(str(folder), told.config.source["docs"].options)
    opened = store._open

    def refuse(path: str, known: storage.ObjectInfo | None) -> Any:
        if path.endswith("2.txt"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, known)

    monkeypatch.setattr(store, "_open", refuse)
    [failure], _ = without_ray(told, pending, nothing)
    assert isinstance(failure, Failure)
    assert (failure.exit_code, failure.files) == (ExitCode.CONFIG, (NAMES[2],))
    [failure], _ = without_ray(told, pending, lambda: monkeypatch.setattr(store, "_open", opened))
    assert isinstance(failure, Failure)
    assert (failure.exit_code, failure.files) == (ExitCode.RETRYABLE, (NAMES[2],))
