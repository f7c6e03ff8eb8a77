"""Tests reading: a text that can't be tokenized costs only itself, and an error becomes data."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed import read
from pipeline.embed.encode import Encode
from pipeline.embed.row import from_row
from pipeline.errors import ExitCode
from pipeline.plan.scan_row import splits_of
from pipeline.telemetry.liveness import MAX_CRASHES, LivenessTracker
from tests.conftest import make_checkpoint
from tests.splits import first_read, first_split, written
from tests.telemetry.test_liveness import Local

JobValues = Callable[..., dict[str, Any]]


CATASTROPHIC = "a" * 40 + "c"
"""A text on which the regular expression `(a+a+)+b` gives up, and the library panics."""


def with_tokenizer(folder: Path, **parts: Any) -> Path:
    """Writes a checkpoint with some parts of its tokenizer replaced."""
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
    record = written(Encode(told)(first_read(row, told)), told)
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
    """The panic is the library's own, not an `Exception`; our code does not make this call yet."""
    row, told = first_split(job())
    backend = Backend(models.WordLevel({"a": 0}, "a"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+a+)+b"), "isolated")
    monkeypatch.setattr(read, "tokenized", lambda *_: backend.encode(CATASTROPHIC))
    failure = from_row(first_read(row, told))
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

    monkeypatch.setattr(read, "tokenized", told_to_end)
    with pytest.raises(end):
        first_read(row, told)


def test_an_unforeseen_error_is_data_too(job: JobValues) -> None:
    row, told = first_split(job())
    nonsense = pa.table({"note": [row["note"][0].as_py().replace('"start": 0', '"start": null')]})
    failure = from_row(first_read(nonsense, told))
    assert isinstance(failure, Failure)
    assert failure.exit_code == ExitCode.BUG
    assert "TypeError" in failure.message


class Refusing(Local):
    """A sentry that says that too many processes died at some splits."""

    def __init__(self, refused: set[str]) -> None:
        super().__init__(LivenessTracker(list))
        self.refused = refused

    def enter(self, split_id: str, stage: str) -> int:
        return MAX_CRASHES if split_id in self.refused else super().enter(split_id, stage)


def test_a_split_that_is_not_tried_again_does_not_shift_those_behind_it(
    job: JobValues, tmp_path: Path
) -> None:
    """One file has four splits and can only be read from its start; the middle two are not tried."""
    lines = "".join(f"text {number}\n" for number in range(40))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines.encode()))
    values = job(source={"s": {"path": f"{tmp_path}/*.txt.gz"}}, output={"max_split_bytes": 90})
    row, told = first_split(values)
    splits = splits_of(row)
    assert len(splits) > 3
    refused = {split_id for split_id, _ in splits[1:3]}
    for (split_id, pieces), each in zip(splits, read.read_scan(row, told, Refusing(refused)), strict=True):
        found = from_row(each)
        assert found.split_id == split_id
        if split_id in refused:
            assert isinstance(found, Failure)
            assert (found.kind, found.files) == ("CrashError", ("s/a.txt.gz",))
        else:
            assert isinstance(found, read.ReadSplit)
            assert found.rows.table["source_row"].to_pylist() == list(range(pieces[0].start, pieces[0].stop))
