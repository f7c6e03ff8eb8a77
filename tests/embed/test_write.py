"""Tests writing: a split becomes a record, and no shard gets vectors that are not finite."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed.encode import Encode
from pipeline.embed.row import from_row, to_row
from pipeline.embed.split import EncodedSplit
from pipeline.errors import ExitCode
from tests.splits import first_read, first_split, written

JobValues = Callable[..., dict[str, Any]]


def test_a_split_passes_through_all_stages(job: JobValues) -> None:
    row, told = first_split(job())
    record = written(Encode(told)(first_read(row, told)), told)
    assert isinstance(record, ShardRecord)
    assert (record.rows, record.rejects, record.attempt) == (10, 0, "attempt")


def test_vectors_that_are_not_finite_do_not_pass_the_writer_either(job: JobValues, tmp_path: Path) -> None:
    row, told = first_split(job())
    encoded = from_row(Encode(told)(first_read(row, told)))
    assert isinstance(encoded, EncodedSplit)
    nothing = np.full((10, 16), np.nan, np.float32)
    failure = written(to_row(replace(encoded, outputs={"embedding": nothing})), told)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code) == ("write", ExitCode.RETRYABLE)
    assert not (tmp_path / "out").exists()
