"""The stages without Ray: data in, data out, and failures as data."""

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipeline import checkpoint, config, plan, stages
from pipeline.dataset import Identity, ShardRecord
from pipeline.encoder import Encoder
from pipeline.errors import ExitCode
from pipeline.job import START, Failure, Job
from pipeline.recipe import Recipe
from pipeline.stages import Encode
from pipeline.watch import Watch
from tests.conftest import make_checkpoint
from tests.test_watch import Local

JobValues = Callable[..., dict[str, Any]]


def first_split(values: dict[str, Any]) -> tuple[pa.Table, Job]:
    parsed = config.parse(values)
    model = checkpoint.resolve(parsed.model.name)
    made = plan.make(parsed, model, "digest")
    row = pa.Table.from_pylist([stages.feed_row(next(iter(made.scans())))])
    digests = Identity.of(parsed, model).vector_digest, model.tokenizer_digest
    return row, Job(parsed, made.columns, Recipe.of(model, parsed.model), None, *digests, "attempt")


def first_read(row: pa.Table, told: Job) -> pa.Table:
    return next(stages.read(row, told))


def note(row: pa.Table) -> ShardRecord | Failure:
    return stages.result(row.column("note")[0].as_py())


def test_a_split_passes_through_all_stages(job: JobValues) -> None:
    row, told = first_split(job())
    record = note(stages.write(Encode(told)(first_read(row, told)), told))
    assert isinstance(record, ShardRecord)
    assert (record.rows, record.rejects, record.attempt) == (10, 0, "attempt")


def test_every_stage_has_the_same_columns(job: JobValues) -> None:
    row, told = first_split(job())
    read = first_read(row, told)
    encoded = Encode(told)(read)
    assert read.schema == encoded.schema == stages.write(encoded, told).schema


def test_the_encoder_hands_rows_on_without_copying_them(job: JobValues) -> None:
    row, told = first_split(job())
    read = first_read(row, told)
    encoded = Encode(told)(read)
    for name in ("rows", "rejects"):
        assert stages.uncell(read[name]).address == stages.uncell(encoded[name]).address


def test_a_failure_passes_the_stages_after_it(job: JobValues) -> None:
    row, told = first_split(job())
    broken = pa.table({"note": [row["note"][0].as_py().replace('"version": "', '"version": "not ')]})
    failure = note(stages.write(Encode(told)(first_read(broken, told)), told))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code, failure.files) == (
        "read",
        ExitCode.INCOMPLETE,
        ("docs/0.parquet",),
    )
    assert "changed since it was planned" in failure.message


def test_a_node_with_another_checkpoint_embeds_nothing(job: JobValues) -> None:
    row, told = first_split(job(compute={"watchdog_minutes": 0.1}))  # it soon gives up
    for other, message in (
        (replace(told, vector_digest="0" * 64), "another checkpoint than the driver"),
        (replace(told, tokenizer_digest="0" * 64), "another tokenizer than the driver"),
    ):
        failure = note(stages.write(Encode(other)(first_read(row, other)), other))
        assert isinstance(failure, Failure)
        assert failure.exit_code == ExitCode.CONFIG
        assert message in failure.message


def test_a_replica_that_could_not_start_does_so_before_its_next_split(job: JobValues, tmp_path: Path) -> None:
    """As if a mount came late: the checkpoint is nowhere at first."""
    model, away = make_checkpoint(tmp_path / "model"), tmp_path / "away"
    row, told = first_split(job(model={"name": str(model)}, compute={"watchdog_minutes": 0.2}))
    read = first_read(row, told)
    model.rename(away)
    replica = Encode(told)
    failure = note(stages.write(replica(read), told))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code) == (START, ExitCode.CONFIG)
    assert platform.node() in failure.message
    away.rename(model)
    assert isinstance(note(stages.write(replica(read), told)), ShardRecord)


def test_a_process_whose_device_failed_ends_where_that_is_counted(
    job: JobValues, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA's errors stay: such a process would fail split after split. No GPU is here to do it for real."""
    row, told = first_split(job())
    read = first_read(row, told)
    watched, alone = Encode(told, Local(Watch(list))), Encode(told)

    def failing(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand more")

    def ended_at_once(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(Encoder, "_run", failing)
    monkeypatch.setattr(os, "_exit", ended_at_once)
    with pytest.raises(SystemExit) as ended:
        watched(read)
    assert ended.value.code == ExitCode.RETRYABLE
    assert "the device failed (got CUDA error: an illegal memory access" in capsys.readouterr().err
    failure = note(stages.write(alone(read), told))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code) == ("encode", ExitCode.RETRYABLE)


def test_an_unforeseen_error_is_data_too(job: JobValues) -> None:
    row, told = first_split(job())
    nonsense = pa.table({"note": [row["note"][0].as_py().replace('"start": 0', '"start": null')]})
    failure = note(first_read(nonsense, told))
    assert isinstance(failure, Failure)
    assert failure.exit_code == ExitCode.BUG
    assert "TypeError" in failure.message
