"""Tests a source without rows: no dataset without a word, and one that readers can read if it is allowed."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.config.load import _dated, parse_config
from pipeline.dataset.ending import RunResult
from pipeline.driver import run
from pipeline.errors import ExitCode, IncompleteError
from pipeline.estimate.estimate import forecast
from pipeline.nightly import Series

Job = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("flow")


@pytest.fixture
def night(job: Job, tmp_path: Path) -> Callable[..., RunResult]:
    """Returns a function that embeds a source with some rows, for one night of a series."""

    def embed(day: int, rows: int, allow: bool = False) -> RunResult:
        write(tmp_path / "in", rows)
        values = job(
            source={"docs": {"path": f"{tmp_path}/in/*.parquet", "id_column": "key"}},
            output={"path": str(tmp_path / "series/{run_date}")},
            quality={"allow_empty": allow},
        )
        config = parse_config(values)
        output = _dated(config.output, datetime.date(2026, 1, day))
        return run.run(config.model_copy(update={"output": output}), quiet=True)

    return embed


def write(folder: Path, rows: int) -> None:
    folder.mkdir(exist_ok=True)
    texts = pa.array([f"text {row}" for row in range(rows)], pa.string())
    pq.write_table(pa.table({"text": texts, "key": pa.array(range(rows), pa.int32())}), folder / "a.parquet")


def followed(tmp_path: Path) -> str | None:
    latest = Series(str(tmp_path / "series")).latest()
    return latest.dataset if latest else None


def test_an_empty_night_leaves_readers_where_they_are(
    night: Callable[..., RunResult], tmp_path: Path
) -> None:
    assert night(1, rows=3).code == ExitCode.DONE
    with pytest.raises(IncompleteError, match=r"no source has a row.*set quality\.allow_empty"):
        night(2, rows=0)
    assert followed(tmp_path) == "2026-01-01"
    assert not (tmp_path / "series/2026-01-02").exists()
    assert night(2, rows=4).summary["rows"] == 4  # what has come since is found
    assert followed(tmp_path) == "2026-01-02"


def test_an_empty_night_that_is_allowed_can_be_read(night: Callable[..., RunResult], tmp_path: Path) -> None:
    assert night(1, rows=3).code == ExitCode.DONE
    ending = night(2, rows=0, allow=True)
    assert (ending.code, ending.summary["shards"], ending.summary["rows"]) == (ExitCode.DONE, 1, 0)
    assert followed(tmp_path) == "2026-01-02"
    filled, empty = (tmp_path / f"series/2026-01-0{day}/data" for day in (1, 2))
    [shard] = empty.glob("*.parquet")
    assert pq.read_schema(shard).equals(pq.read_schema(next(filled.glob("*.parquet"))))
    assert pq.ParquetDataset(empty).read().num_rows == 0
    assert polars.scan_parquet(f"{empty}/*.parquet").collect().shape[0] == 0
    with duckdb.connect() as connection:
        assert connection.sql(f"FROM '{empty}/*.parquet'").fetchall() == []
    assert cli.main(["verify", str(empty.parent)]) == 0


def test_lines_that_hold_no_text_are_no_rows_either(job: Job, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").touch()
    source = {"docs": {"path": f"{tmp_path}/in/*.txt"}}
    with pytest.raises(IncompleteError, match="no source has a row"):
        run.run(parse_config(job(source=source)), quiet=True)
    assert run.run(parse_config(job(source=source, quality={"allow_empty": True})), quiet=True).code == 0


def test_a_forecast_warns_of_it(job: Job, tmp_path: Path) -> None:
    write(tmp_path / "in", 0)
    source = {"docs": {"path": f"{tmp_path}/in/*.parquet", "id_column": "key"}}
    found = forecast(parse_config(job(source=source)))
    assert found.texts == 0
    assert "no_rows" in [caution.kind for caution in found.cautions]
    allowed = forecast(parse_config(job(source=source, quality={"allow_empty": True})))
    assert "no_rows" not in [caution.kind for caution in allowed.cautions]
