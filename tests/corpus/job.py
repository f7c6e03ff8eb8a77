"""Runs a job of the corpus in this process, and reads its dataset."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.config.load import parse_config
from pipeline.driver.run import run
from tests.conftest import read_dataset

Job = Callable[..., dict[str, Any]]


def run_here(values: dict[str, Any]) -> pa.Table:
    """Runs a job whose rejects and failures do not matter; returns its rows in the order of the source."""
    quality = {"max_reject_fraction": 1, "allow_failed_files": True}
    ending = run(parse_config({**values, "quality": quality}))
    assert ending.code == 0, ending.reason
    return read_dataset(ending.output)
