"""Tests jobs over tables: each dataset holds exactly the rows of the library's own scan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import cli
from pipeline.config.load import parse_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from pipeline.verify import verify
from tests import written_tables
from tests.conftest import observed, read_dataset, write_config
from tests.written_tables import Table, rows

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]


def embed(values: dict[str, Any]) -> dict[str, Any]:
    """Runs a job, which must end well and pass its audit; returns its summary."""
    parsed = parse_config(values)
    ending = run.run(parsed, quiet=True)
    assert ending.code == ExitCode.DONE, ending.reason
    report = verify.verify(parsed.output.path, 1.0, config=parsed)
    assert not report.findings, report.findings
    assert ending.summary
    return ending.summary


def held(root: str, *columns: str) -> list[dict[str, Any]]:
    return sorted(read_dataset(root).select(columns).to_pylist(), key=lambda row: row["id"])


def same(root: str, wanted: pa.Table) -> None:
    """Asserts that the dataset has exactly the rows of a table, with the values of its carried columns."""
    from hashlib import blake2b

    expected = [
        {
            "id": row["id"],
            "day": row["day"],
            "text_hash": blake2b(row["text"].encode(), digest_size=16).digest(),
        }
        for row in sorted(wanted.to_pylist(), key=lambda row: row["id"])
    ]
    assert held(root, "id", "day", "text_hash") == expected


def test_a_delta_table_with_deleted_updated_and_compacted_rows(job: Job, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    root = str(tmp_path / "table")
    setup = {"delta.enableDeletionVectors": "true"}
    deltalake.write_deltalake(root, rows(*range(20)), partition_by=["day"], configuration=setup)
    deltalake.write_deltalake(root, rows(*range(20, 40)), mode="append")
    table = deltalake.DeltaTable(root)
    table.delete("id = 3")
    table.update(updates={"text": "'an updated text'"}, predicate="id = 4")
    table.optimize.compact()
    table.create_checkpoint()
    deltalake.write_deltalake(root, rows(*range(40, 50)), mode="append")
    [add, *_] = [each["add"] for each in written_tables.actions(root, 5) if "add" in each]
    written_tables.commit(root, 6, written_tables.with_vector(root, add, [0, 2]))
    source = {"docs": {"path": root, "format": "delta", "id_column": "id", "carry": ["day"]}}
    summary = embed(job(source=source))
    wanted = pa.table(deltalake.DeltaTable(root).scan())
    assert wanted.num_rows == 47
    same(str(tmp_path / "out"), wanted)
    assert summary["snapshots"] == {"docs": 6}
    assert summary["rows"] == summary["documents"] == 47


def test_an_iceberg_table_with_deleted_and_changed_rows(job: Job, tmp_path: Path) -> None:
    pytest.importorskip("pyiceberg")
    catalog = written_tables.iceberg_catalog(tmp_path, f"file://{tmp_path}/lake")
    table = catalog.create_table("db.docs", schema=rows(0).schema)
    table.append(rows(*range(20)))
    table.append(rows(*range(20, 40)))
    table.delete("id = 3")
    table.overwrite(rows(4, text="updated text {}"), "id = 4")
    table.append(rows(*range(40, 50)))
    first, *_ = [task.file.file_path for task in table.scan().plan_files()]
    written_tables.delete_positions(table, [(first, 0), (first, 2), ("elsewhere", 1)])
    table.refresh()
    wanted = table.scan().to_arrow()
    assert wanted.num_rows == 47
    root = written_tables.root_of(table)
    source = {"docs": {"path": root, "format": "iceberg", "id_column": "id", "carry": ["day"]}}
    summary = embed(job(source=source))
    same(str(tmp_path / "out"), wanted)
    assert summary["snapshots"] == {"docs": table.current_snapshot().snapshot_id}


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_an_older_version_is_embedded_as_it_was(job: Job, tmp_path: Path, kind: str) -> None:
    table = Table(kind, tmp_path)
    table.append(rows(*range(20)))
    before = table.version
    table.append(rows(*range(20, 30)))
    table.delete(3)
    for version, name in ((before, "before"), (table.version, "named"), (None, "newest")):
        output = {"path": str(tmp_path / name)}
        summary = embed(job(source=table.source(version=version), output=output))
        assert summary["snapshots"] == {"docs": table.version if version is None else version}
        same(output["path"], table.scan(version))
    assert held(str(tmp_path / "before"), "id") == [{"id": each} for each in range(20)]
    assert held(str(tmp_path / "newest"), "id") == [{"id": each} for each in range(30) if each != 3]


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_night_copies_the_shards_of_unchanged_files_and_lists_no_data(
    job: Job, tmp_path: Path, kind: str
) -> None:
    table = Table(kind, tmp_path)
    for start in range(0, 100, 20):
        table.append(rows(*range(start, start + 20)))
    nightly: dict[str, Any] = {
        "source": table.source(),
        "reuse": {"base": str(tmp_path / "first"), "match": "dataset"},
    }
    embed(job(source=table.source(), output={"path": str(tmp_path / "first")}))
    table.delete(3)
    table.append(rows(*range(100, 110)))
    asked: list[tuple[str, str]] = []
    with observed(lambda what, path: asked.append((what, path))):
        summary = embed(job(**nightly, output={"path": str(tmp_path / "second")}))
    same(str(tmp_path / "second"), table.scan())
    assert (summary["copied"], summary["reused"], summary["embedded"]) == (80, 19, 10)
    listed = {path for what, path in asked if what == "list" and path.startswith(table.root)}
    assert listed == {f"{table.root}/{'_delta_log' if kind == 'delta' else 'metadata'}"}


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_plan_and_report_tell_the_version_and_count_no_deleted_rows(
    job: Job, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(kind, tmp_path)
    table.append(rows(*range(30)))
    table.delete_by_position([4, 5, 29])
    assert table.scan_with_deletions().num_rows == 27
    config = write_config(tmp_path / "job.yaml", job(source=table.source()))
    assert cli.main(["plan", str(config)]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert f"docs: {kind} {table.version}" in shown
    assert "27 rows, counted" in shown
    embed(job(source=table.source()))
    assert [row["id"] for row in held(str(tmp_path / "out"), "id")] == sorted(
        table.scan_with_deletions().column("id").to_pylist()
    )
    places = read_dataset(tmp_path / "out").column("source_row").to_pylist()
    assert sorted(places) == sorted(set(range(30)) - {4, 5, 29})


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_table_that_has_moved_on_is_told(job: Job, tmp_path: Path, kind: str) -> None:
    table = Table(kind, tmp_path)
    table.append(rows(*range(20)))
    values = job(source=table.source())
    embed(values)
    assert run.run(parse_config(values), quiet=True).code == ExitCode.DONE
    planned = table.version
    table.append(rows(20))
    ending = run.run(parse_config(values), quiet=True)
    assert ending.code == ExitCode.SOURCE_MOVED
    pinned = run.run(parse_config(job(source=table.source(version=planned))), quiet=True)
    assert pinned.code == ExitCode.DONE
