"""Runs a job over the files of many writers: planned, read and written, with every row as it was meant."""

from pathlib import Path

import pytest

from pipeline.config.load import parse_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests.conftest import read_dataset
from tests.corpus import parquet, stored
from tests.flow import use_no_ray

CASES = {**parquet.CASES, **stored.CASES}


@pytest.mark.parametrize("name", CASES)
def test_every_row_is_as_its_writer_meant_it(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_no_ray(monkeypatch)
    folder = tmp_path / "in"
    folder.mkdir()
    case = CASES[name](folder)
    values = {
        "source": {"docs": {**case.source, "path": str(folder / case.source["path"])}},
        "model": {"name": str(tiny)},
        "output": {"path": str(tmp_path / "out")},
    }
    ending = run.run(parse_config(values), quiet=True)
    assert ending.code == ExitCode.DONE or case.rejects, ending.reason
    assert not ending.summary["failed_files"]
    assert ending.summary["reject_reasons"] == case.rejects
    assert ending.summary["passed_over"] == ({"docs": case.passed_over} if case.passed_over else {})
    found = read_dataset(tmp_path / "out")
    assert {column: found.column(column).to_pylist() for column in case.rows} == case.rows
