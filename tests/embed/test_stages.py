"""The stages without Ray: data in, data out, and failures as data."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from pipeline.config.load import parse_config
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import START, Failure, ShardRecord
from pipeline.embed import stages
from pipeline.embed.job import Job
from pipeline.embed.stages import Encode
from pipeline.errors import ExitCode
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import Recipe
from pipeline.model.encoder import Encoder
from pipeline.plan.make import make_plan
from pipeline.plan.scan_row import feed_row
from pipeline.telemetry.liveness import Watch
from tests.conftest import make_checkpoint
from tests.telemetry.test_liveness import Local

JobValues = Callable[..., dict[str, Any]]


def first_split(values: dict[str, Any]) -> tuple[pa.Table, Job]:
    parsed = parse_config(values)
    model = checkpoint.resolve(parsed.model.name)
    made = make_plan(parsed, model, "digest")
    row = pa.Table.from_pylist([feed_row(next(iter(made.scans())))])
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
    job: JobValues, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
    assert "the device failed (got CUDA error: an illegal memory access" in caplog.text
    failure = note(stages.write(alone(read), told))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code) == ("encode", ExitCode.RETRYABLE)


def broken_weights(folder: Path) -> Path:
    """A checkpoint whose every vector is NaN."""
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, folder / "model.safetensors")
    return folder


def test_a_replica_of_broken_weights_fails_its_splits_and_lives(job: JobValues, tmp_path: Path) -> None:
    """To end its process would help nobody: the next one has the same weights."""
    model = broken_weights(make_checkpoint(tmp_path / "model"))
    row, told = first_split(job(model={"name": str(model)}))
    replica = Encode(told, Local(Watch(list)))
    failure = note(stages.write(replica(first_read(row, told)), told))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code, failure.kind) == (
        "encode", ExitCode.RETRYABLE, "NonFiniteError",
    )  # fmt: skip
    assert f"cpu on {platform.node()}: the model gives NaN or infinity (got 10 of 10" in failure.message


def test_a_device_that_goes_bad_gives_the_split_to_another_process(
    job: JobValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No device is here that could: it is the replica's weights that change."""
    row, told = first_split(job())
    replica = Encode(told, Local(Watch(list)))
    assert isinstance(note(stages.write(replica(first_read(row, told)), told)), ShardRecord)
    for parameter in replica.encoder.model.parameters():
        parameter.data.fill_(torch.nan)

    def ended_at_once(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", ended_at_once)
    with pytest.raises(SystemExit) as ended:
        replica(first_read(row, told))
    assert ended.value.code == ExitCode.RETRYABLE


def test_vectors_that_are_not_finite_do_not_pass_the_writer_either(job: JobValues, tmp_path: Path) -> None:
    row, told = first_split(job())
    encoded = Encode(told)(first_read(row, told))
    nothing = np.full((10, 16), np.nan, np.float32)
    at = encoded.column_names.index("vectors")
    failure = note(stages.write(encoded.set_column(at, "vectors", stages.cell(nothing)), told))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code) == ("write", ExitCode.RETRYABLE)
    assert not (tmp_path / "out").exists()


CATASTROPHIC = "a" * 40 + "c"
"""A text at which the regular expression `(a+a+)+b` gives up, and the library panics."""


def with_tokenizer(folder: Path, **parts: Any) -> Path:
    """A checkpoint with some parts of its tokenizer replaced."""
    path = make_checkpoint(folder) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return folder


@pytest.mark.parametrize("long_text", ["truncate", "chunks"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_text_at_which_the_tokenizer_panics_is_a_reject(
    job: JobValues, corpus: Path, tmp_path: Path, long_text: str, keep: bool
) -> None:
    table = pq.read_table(corpus / "0.parquet")
    lines = table["text"].to_pylist()
    lines[3] = lines[7] = CATASTROPHIC + " and so on" * 200
    pq.write_table(table.set_column(1, "text", pa.array(lines)), corpus / "0.parquet")
    split = {"type": "Split", "pattern": {"Regex": "(a+a+)+b"}, "behavior": "Isolated", "invert": False}
    model = with_tokenizer(tmp_path / "model", pre_tokenizer=split)
    values = job(model={"name": str(model), "long_text": long_text}, output={"keep_rejected_text": keep})
    row, told = first_split(values)
    record = note(stages.write(Encode(told)(first_read(row, told)), told))
    assert isinstance(record, ShardRecord)
    assert (record.rows, record.reasons) == (8, [{"reason": "tokenizer_failed", "rows": 2}])
    assert [(piece["rows"], piece["rejects"]) for piece in record.pieces] == [(8, 2)]
    shard = pq.read_table(tmp_path / "out/data")
    assert shard["source_row"].to_pylist() == [0, 1, 2, 4, 5, 6, 8, 9]
    rejects = pq.read_table(tmp_path / "out/rejects").to_pylist()
    assert [(each["source_row"], each["permanent"]) for each in rejects] == [(3, True), (7, True)]
    assert [each["text"] for each in rejects] == [lines[3][:1000] if keep else None] * 2


def test_a_panic_anywhere_in_a_stage_is_a_failed_split(
    job: JobValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's own, which is no `Exception`; by a way that no code of ours takes yet."""
    row, told = first_split(job())
    backend = Backend(models.WordLevel({"a": 0}, "a"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+a+)+b"), "isolated")
    monkeypatch.setattr(stages, "tokenized", lambda *_: backend.encode(CATASTROPHIC))
    failure = note(first_read(row, told))
    assert isinstance(failure, Failure)
    assert (failure.exit_code, failure.kind) == (ExitCode.BUG, "PanicException")


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_who_is_told_to_end_ends(
    job: JobValues, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    """Ray cancels a task by a KeyboardInterrupt within it."""
    row, told = first_split(job())

    def told_to_end(*_: object) -> None:
        raise end

    monkeypatch.setattr(stages, "tokenized", told_to_end)
    with pytest.raises(end):
        first_read(row, told)


def test_an_unforeseen_error_is_data_too(job: JobValues) -> None:
    row, told = first_split(job())
    nonsense = pa.table({"note": [row["note"][0].as_py().replace('"start": 0', '"start": null')]})
    failure = note(first_read(nonsense, told))
    assert isinstance(failure, Failure)
    assert failure.exit_code == ExitCode.BUG
    assert "TypeError" in failure.message
