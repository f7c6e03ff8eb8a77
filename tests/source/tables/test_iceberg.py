"""Tests snapshots of Iceberg tables: the metadata alone decides, and what can't be read right is refused."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.source import Source
from pipeline.errors import ConfigError, MissingError
from pipeline.source.tables import Snapshot, read_snapshot
from tests.conftest import observed
from tests.written_tables import Table, delete_positions, rows

pytest.importorskip("pyiceberg")


def look(root: Path | str, **settings: Any) -> Snapshot:
    return read_snapshot("docs", Source(path=str(root), format="iceberg", **settings))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A table with three snapshots: two of new rows, and one that deletes."""
    made = Table("iceberg", tmp_path)
    made.append(rows(1, 2))
    made.append(rows(3, 4))
    made.delete(1)
    return made


def live(table: Table, version: int | None = None) -> list[str]:
    tasks = table.iceberg.scan(snapshot_id=version).plan_files()
    return sorted(task.file.file_path.removeprefix("file://") for task in tasks)


def test_a_snapshot_has_the_live_files_alone(table: Table) -> None:
    for snapshot in table.iceberg.metadata.snapshots:
        found = look(table.root, version=snapshot.snapshot_id)
        assert [file.path for file in found.files] == live(table, snapshot.snapshot_id)
        assert found.version == snapshot.snapshot_id
    assert look(table.root).version == table.version


def test_the_newest_metadata_is_found_by_number_by_hint_or_by_its_name(table: Table) -> None:
    folder = Path(table.root, "metadata")
    all_metadata = sorted(folder.glob("*.metadata.json"))
    assert [file.path for file in look(all_metadata[1]).files] == live(
        table, table.iceberg.metadata.snapshots[0].snapshot_id
    )
    for number, path in enumerate(all_metadata):
        shutil.copy(path, folder / f"v{number}.metadata.json")
        path.unlink()
    newest = len(all_metadata) - 1
    assert look(table.root).version == table.version
    (folder / "version-hint.text").write_text(str(newest - 1))  # its writer died before it wrote the next
    asked: list[str] = []
    with observed(lambda what, _: asked.append(what)):
        assert look(table.root).version == table.version
    assert "list" not in asked


def test_two_newest_metadata_files_are_refused(table: Table) -> None:
    newest = max(Path(table.root, "metadata").glob("*.metadata.json"))
    shutil.copy(newest, newest.with_name(newest.name[:6] + "00000000-0000.metadata.json"))
    with pytest.raises(ConfigError, match="two newest metadata files.*set path to the .metadata.json"):
        look(table.root)


def test_a_table_that_was_copied_is_read_where_it_is(table: Table, tmp_path: Path) -> None:
    shutil.copytree(table.root, tmp_path / "copy")
    shutil.rmtree(table.root)
    found = look(tmp_path / "copy")
    assert found.files
    assert all(file.path.startswith(f"{tmp_path}/copy/data/") for file in found.files)
    assert all(Path(file.path).exists() for file in found.files)


def test_versions_of_files_change_with_their_rows_alone(table: Table) -> None:
    before = {file.path: file.version for file in look(table.root).files}
    first = live(table)[0]
    delete_positions(table.iceberg, [(f"file://{first}", 0)])
    after = {file.path: file.version for file in look(table.root).files}
    assert [path for path in before if before[path] != after[path]] == [first]


def test_equality_deletes_are_refused_by_name(table: Table) -> None:
    delete_positions(table.iceberg, [("x", 0)], "EQUALITY_DELETES")
    with pytest.raises(
        ConfigError, match="with equality deletes, which can't be read here.*rewrite_data_files"
    ):
        look(table.root)


def test_what_is_no_table_or_no_snapshot_is_told(table: Table, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is not an Iceberg table: it has no metadata"):
        look(tmp_path)
    with pytest.raises(ConfigError, match=rf"has no snapshot 7 .got the newest are .*{table.version}"):
        look(table.root, version=7)
    with pytest.raises(ConfigError, match="has no such column"):
        look(table.root, carry=("nothing",))
    newest = max(Path(table.root, "metadata").glob("*.metadata.json"))
    newest.write_text("{}")
    with pytest.raises(ConfigError, match="can't be read as an Iceberg table"):
        look(table.root)


@pytest.mark.parametrize("package", ["pyiceberg.table", "pyroaring"])
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match="pip install pyiceberg pyroaring"):
        look(tmp_path)


def test_a_table_without_a_snapshot_has_no_rows(tmp_path: Path) -> None:
    empty = Table("iceberg", tmp_path)
    with pytest.raises(MissingError, match="has no rows yet"):
        look(empty.root)
