"""Tests that transient rejects are tried again in a new dataset, and that the committed one stays."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.config import sections
from pipeline.config.load import _dated, parse_config
from pipeline.dataset.record import RECORD
from pipeline.driver import retry_rejects, run
from pipeline.errors import ConfigError, ExitCode, OtherDatasetError
from pipeline.nightly import Series
from tests.conftest import read_dataset
from tests.driver.test_reuse import FIRST

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]


def dated(values: dict[str, Any]) -> sections.Config:
    parsed = parse_config(values)
    return parsed.model_copy(update={"output": _dated(parsed.output, FIRST)})


def lose_a_row(root: Path) -> None:
    """Turns one row of a complete dataset into a transient reject, as running out of memory does.

    It does so by hand: no test can make a real replica run out of memory at a row once and not again.
    """
    shard = sorted((root / "data").glob("*.parquet"))[0]
    split_id = shard.stem.removeprefix("part-")
    table = pq.read_table(shard)
    place = {name: table.column(name)[0].as_py() for name in ("source_file", "source_row")}
    reject = {**place, "reason": "out_of_memory", "permanent": False, "text": None}
    (root / "rejects").mkdir()
    pq.write_table(
        pa.Table.from_pylist([reject], schema=schema.REJECTS), root / f"rejects/part-{split_id}-x.parquet"
    )
    pq.write_table(table.slice(1), shard)
    rows = pq.read_table(root / "manifest.parquet").to_pylist()
    for row in rows:
        if row["split_id"] == split_id:
            row |= {"rows": row["rows"] - 1, "rejects": 1, "transient": 1, "file_bytes": shard.stat().st_size}
            row["rejects_file"] = f"part-{split_id}-x.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORD), root / "manifest.parquet")


def test_rejects_are_tried_again_in_a_new_dataset(job: Job, tmp_path: Path) -> None:
    values = job(output={"path": str(tmp_path / "series/{run_date}"), "rows_per_shard": 10})
    values["source"]["docs"]["options"] = {"ignore_ctime": True}  # a file is taken away and put back
    made = dated(values)
    with pytest.raises(ConfigError, match="is not complete"):
        retry_rejects.retry_rejects(made)
    assert run.run(made, quiet=True).code == ExitCode.DONE
    nothing = retry_rejects.retry_rejects(made, quiet=True)
    assert (nothing.code, nothing.reason) == (ExitCode.DONE, "no reject can be fixed by another try")

    root = Path(made.output.path)
    lose_a_row(root)
    moved = root.parents[1] / "corpus/1.parquet"
    moved.rename(moved.with_suffix(".away"))
    refused = retry_rejects.retry_rejects(made, quiet=True)
    assert (refused.code, refused.output) == (ExitCode.SOURCE_MOVED, str(root))
    assert "1 files differ, docs/1.parquet among them" in refused.reason
    assert not Path(f"{root}-retry1").exists()
    moved.with_suffix(".away").rename(moved)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    ending = retry_rejects.retry_rejects(made, quiet=True)
    assert ending.code == ExitCode.DONE
    found = {name: ending.summary[name] for name in ("copied", "reused", "embedded", "rejects")}
    assert found == {"copied": 50, "reused": 9, "embedded": 1, "rejects": 0}
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    again = Path(f"{root}-retry1")
    assert read_dataset(again).column("key").to_pylist() == list(range(60))
    latest = Series(str(tmp_path / "series")).latest()
    assert latest is not None
    assert (latest.dataset, latest.previous) == (again.name, root.name)
    members = Series(str(tmp_path / "series")).datasets()
    assert [(member.name, member.run_date) for member in members] == [(root.name, FIRST), (again.name, FIRST)]
    assert retry_rejects.retry_rejects(made, quiet=True).reason == "no reject can be fixed by another try"
    assert not Path(f"{root}-retry2").exists()


def test_where_the_config_names_relative_paths_shards_are_copied_all_the_same(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run digests paths as they are in the config."""
    monkeypatch.chdir(tmp_path)
    values = job(output={"path": "series/{run_date}"})
    values["source"]["docs"]["path"] = "corpus/*.parquet"
    made = dated(values)
    assert run.run(made, quiet=True).code == ExitCode.DONE
    lose_a_row(tmp_path / "series" / FIRST.isoformat())
    ending = retry_rejects.retry_rejects(made, quiet=True)
    assert ending.code == ExitCode.DONE
    assert {name: ending.summary[name] for name in ("copied", "reused", "embedded")} == {
        "copied": 50, "reused": 9, "embedded": 1,
    }  # fmt: skip
    again = tmp_path / "series" / (FIRST + datetime.timedelta(1)).isoformat()
    output = made.output.model_copy(update={"path": f"series/{again.name}"})
    night = run.run(
        made.model_copy(update={"output": output, "reuse": sections.Reuse(base="latest")}), quiet=True
    )
    assert night.summary["copied"] == 60


def test_a_dataset_of_another_version_is_refused(job: Job, tmp_path: Path) -> None:
    """Nothing of it could be reused, so that all of it would be embedded again."""
    made = dated(job())
    root = Path(made.output.path)
    (root / "data").mkdir(parents=True)
    (root / "data/_SUCCESS").touch()
    (root / "dataset.json").write_text('{"format_version": 2}')
    with pytest.raises(OtherDatasetError, match="of another version"):
        retry_rejects.retry_rejects(made)
