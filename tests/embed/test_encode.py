"""Tests a replica that starts late, fails its split, or ends its process."""

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.dataset.record import START, Failure, ShardRecord
from pipeline.embed.encode import Encode
from pipeline.embed.row import from_cell
from pipeline.errors import ExitCode
from pipeline.model.encoder import Encoder
from pipeline.telemetry.liveness import LivenessTracker
from tests.conftest import make_checkpoint
from tests.splits import first_read, first_split, written
from tests.telemetry.test_liveness import Local

JobValues = Callable[..., dict[str, Any]]


def test_the_encoder_hands_rows_on_without_copying_them(job: JobValues) -> None:
    row, told = first_split(job())
    read = first_read(row, told)
    encoded = Encode(told)(read)
    for name in ("rows", "rejects"):
        assert from_cell(read[name]).address == from_cell(encoded[name]).address


def test_a_node_with_another_checkpoint_embeds_nothing(job: JobValues) -> None:
    row, told = first_split(job(compute={"watchdog_minutes": 0.1}))  # it gives up soon
    for other, message in (
        (replace(told, vector_digest="0" * 64), "another checkpoint than the driver"),
        (replace(told, tokenizer_digest="0" * 64), "another tokenizer than the driver"),
    ):
        failure = written(Encode(other)(first_read(row, other)), other)
        assert isinstance(failure, Failure)
        assert failure.exit_code == ExitCode.CONFIG
        assert message in failure.message


def test_a_replica_that_could_not_start_does_so_before_its_next_split(job: JobValues, tmp_path: Path) -> None:
    """The checkpoint is missing at first, as if a mount came late."""
    model, away = make_checkpoint(tmp_path / "model"), tmp_path / "away"
    row, told = first_split(job(model={"name": str(model)}, compute={"watchdog_minutes": 0.2}))
    read = first_read(row, told)
    model.rename(away)
    replica = Encode(told)
    failure = written(replica(read), told)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code) == (START, ExitCode.CONFIG)
    assert platform.node() in failure.message
    away.rename(model)
    assert isinstance(written(replica(read), told), ShardRecord)


def test_a_process_whose_device_failed_ends_where_that_is_counted(
    job: JobValues, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA's errors stay, so such a process would fail split after split. The error is simulated."""
    row, told = first_split(job())
    read = first_read(row, told)
    watched, alone = Encode(told, Local(LivenessTracker(list))), Encode(told)

    def failing(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand more")

    def ended_at_once(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(Encoder, "_run", failing)
    monkeypatch.setattr(os, "_exit", ended_at_once)
    with pytest.raises(SystemExit) as ended:
        watched(read)
    assert ended.value.code == ExitCode.RETRYABLE
    assert "the device failed (got CUDA error: an illegal memory access" in caplog.text
    failure = written(alone(read), told)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code) == ("encode", ExitCode.RETRYABLE)


def broken_weights(folder: Path) -> Path:
    """Writes a checkpoint that gives only NaN."""
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, folder / "model.safetensors")
    return folder


def test_a_replica_of_broken_weights_fails_its_splits_and_lives(job: JobValues, tmp_path: Path) -> None:
    """The process does not end, because the next one would have the same weights."""
    model = broken_weights(make_checkpoint(tmp_path / "model"))
    row, told = first_split(job(model={"name": str(model)}))
    replica = Encode(told, Local(LivenessTracker(list)))
    failure = written(replica(first_read(row, told)), told)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code, failure.kind) == (
        "encode", ExitCode.RETRYABLE, "NonFiniteError",
    )  # fmt: skip
    assert f"cpu on {platform.node()}: the model gives NaN or infinity (got 10 of 10" in failure.message


def test_a_device_that_goes_bad_gives_the_split_to_another_process(
    job: JobValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No device here can go bad, so the test changes the replica's weights."""
    row, told = first_split(job())
    replica = Encode(told, Local(LivenessTracker(list)))
    assert isinstance(written(replica(first_read(row, told)), told), ShardRecord)
    for parameter in replica.encoder.model.parameters():
        parameter.data.fill_(torch.nan)

    def ended_at_once(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", ended_at_once)
    with pytest.raises(SystemExit) as ended:
        replica(first_read(row, told))
    assert ended.value.code == ExitCode.RETRYABLE
