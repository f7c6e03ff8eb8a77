"""Tests snapshots of Delta tables: the log alone decides, and what can't be read right is refused by name."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.config.source import Source
from pipeline.errors import ConfigError, DeniedError, MissingError, PipelineError
from pipeline.source.tables import Snapshot, read_snapshot
from tests.conftest import observed
from tests.written_tables import Table, actions, column, commit, delta_log, rows, with_vector

deltalake = pytest.importorskip("deltalake")
SCHEMA = [column("id", "long"), column("text", "string")]
FILES = {"0.parquet": pa.table({"id": [1], "text": ["a"]})}


def look(root: Path | str, **settings: Any) -> Snapshot:
    return read_snapshot("docs", Source(path=str(root), format="delta", **settings))


def names(found: Snapshot, root: Path | str) -> list[str]:
    return [file.path.removeprefix(f"{root}/") for file in found.files]


def test_a_snapshot_has_the_live_files_alone(tmp_path: Path) -> None:
    table = Table("delta", tmp_path)
    table.append(rows(1, 2))
    table.append(rows(3, 4))
    table.delete(1)
    (Path(table.root) / "stray.parquet").write_bytes(b"of a write that failed")
    for version in range(3):
        wanted = deltalake.DeltaTable(table.root, version=version).file_uris()
        found = look(table.root, version=version)
        assert [file.path for file in found.files] == sorted(wanted)
        assert found.version == version
    assert look(table.root).version == 2


def test_versions_of_files_change_with_their_rows_alone(tmp_path: Path) -> None:
    table = Table("delta", tmp_path)
    table.append(rows(1, 2))
    table.append(rows(3, 4))
    before = {file.path: file.version for file in look(table.root).files}
    [add] = [each["add"] for each in actions(table.root, 1) if "add" in each]
    commit(table.root, 2, with_vector(table.root, add, [0]))
    after = {file.path: file.version for file in look(table.root).files}
    assert [path.rpartition("/")[2] for path in before if before[path] != after[path]] == [add["path"]]


@pytest.mark.parametrize("kept", ["commits", "checkpoint"])
def test_a_log_is_replayed_from_a_checkpoint_or_from_its_beginning(tmp_path: Path, kept: str) -> None:
    table = Table("delta", tmp_path)
    for number in range(6):
        table.append(rows(number))
    if kept == "checkpoint":
        deltalake.DeltaTable(table.root, version=3).create_checkpoint()
        for version in range(4):
            (Path(table.root) / f"_delta_log/{version:020}.json").unlink()
    assert len(look(table.root).files) == 6
    assert len(look(table.root, version=4).files) == 5
    assert len(look(table.root, version=3).files) == 4
    if kept == "checkpoint":
        with pytest.raises(ConfigError, match=r"has no version 2, .*newest is 5, the log begins with 3"):
            look(table.root, version=2)
    with pytest.raises(ConfigError, match="has no version 6"):
        look(table.root, version=6)


def test_reading_a_snapshot_lists_nothing_but_the_log(tmp_path: Path) -> None:
    table = Table("delta", tmp_path)
    for number in range(3):
        table.append(rows(number))
    asked: list[tuple[str, str]] = []
    with observed(lambda what, path: asked.append((what, path))):
        look(table.root)
    assert sorted(asked) == [
        ("list", f"{table.root}/_delta_log"),
        *(("read", f"{table.root}/_delta_log/{version:020}.json") for version in range(3)),
    ]


def test_a_table_in_memory_needs_no_storage_of_the_library() -> None:
    """Any storage of this program will do: here one that deltalake does not know."""
    memory = storage.connect("memory://lake").filesystem
    schema = '{"type":"struct","fields":[{"name":"text","type":"string","nullable":true,"metadata":{}}]}'
    told: list[Mapping[str, Any]] = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"metaData": {"id": "x", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
                      "partitionColumns": [], "createdTime": 1, "configuration": {}}},
        {"add": {"path": "a%20b.parquet", "partitionValues": {}, "size": 5, "modificationTime": 7,
                 "dataChange": True}},
    ]  # fmt: skip
    try:
        commit("memory://lake/table", 0, told)
        [file] = look("memory://lake/table").files
        assert (file.path, file.size) == ("memory:///lake/table/a b.parquet", 5)
    finally:
        memory.rm("/lake", recursive=True)


def test_partition_columns_have_their_types(tmp_path: Path) -> None:
    kinds = {"day": "date", "at": "timestamp", "local": "timestamp_ntz", "cost": "decimal(9,2)",
             "on": "boolean",
             "part": "integer", "name": "string"}  # fmt: skip
    values = {"day": "2026-01-02", "at": "2026-01-02 03:04:05.5", "local": "2026-01-02 03:04:05",
              "cost": "-1.50", "on": "true", "part": "", "name": "ä b"}  # fmt: skip
    schema = [*SCHEMA, *(column(name, kind) for name, kind in kinds.items())]
    parts = {"0.parquet": values}
    delta_log(tmp_path / "t", schema, FILES, ["timestampNtz"], partitions=parts)
    [file] = look(tmp_path / "t", carry=tuple(kinds)).files
    wanted = pa.table(deltalake.DeltaTable(str(tmp_path / "t")).scan()).to_pylist()[0]
    assert {name: value.as_py() for name, value in file.constants.items()} == {
        name: wanted[name] for name in kinds
    }
    assert str(file.constants["cost"].type) == "decimal128(9, 2)"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["v2Checkpoint"], "with features that can't be read here .got v2Checkpoint"),
        (["columnMapping", "someday"], "someday"),
    ],
)
def test_unknown_features_are_refused_by_name(tmp_path: Path, features: list[str], message: str) -> None:
    delta_log(tmp_path / "t", SCHEMA, FILES, features)
    with pytest.raises(ConfigError, match=message):
        look(tmp_path / "t")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "body"}, r"docs: .*has no such column .got 'body' among id, text"),
        ({"text_column": "id"}, "column 'id' is not text"),
        ({"carry": ("text.inner",)}, "has no such column"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    delta_log(tmp_path / "t", SCHEMA, FILES)
    with pytest.raises(ConfigError, match=message):
        look(tmp_path / "t", **settings)


@pytest.mark.parametrize("path", ["s3://other/x.parquet", "/elsewhere/x.parquet"])
def test_a_shallow_clone_is_refused(tmp_path: Path, path: str) -> None:
    delta_log(tmp_path / "t", SCHEMA, FILES)
    add = {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 1, "dataChange": True}
    commit(str(tmp_path / "t"), 1, [{"add": add}])
    with pytest.raises(ConfigError, match="has files outside of its folder"):
        look(tmp_path / "t")


def test_what_is_no_table_or_has_no_rows_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is not a Delta table: it has no log"):
        look(tmp_path)
    delta_log(tmp_path / "t", SCHEMA, {})
    with pytest.raises(MissingError, match="has no rows"):
        look(tmp_path / "t")


@pytest.mark.parametrize("package", ["deltalake", "pyroaring"])
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match="pip install deltalake pyroaring"):
        look(tmp_path)


def test_a_damaged_log_is_told(tmp_path: Path) -> None:
    delta_log(tmp_path / "t", SCHEMA, FILES)
    (tmp_path / "t/_delta_log/00000000000000000001.json").write_text('{"add": 7}\n{')
    with pytest.raises(PipelineError, match="can't be read as a Delta table"):
        look(tmp_path / "t")


def test_a_data_file_that_is_a_link_out_of_the_table_is_refused(tmp_path: Path) -> None:
    delta_log(tmp_path / "t", SCHEMA, FILES)
    (tmp_path / "t/0.parquet").rename(tmp_path / "secret.parquet")
    (tmp_path / "t/0.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(DeniedError, match="is a link out of its source"):
        look(tmp_path / "t")
    assert look(tmp_path / "t", options={"outside_links": "follow"}).files
