"""Tests that the columns of a table's data files are read as the table says, whatever a file calls them."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source import formats, inspection, survey
from pipeline.source.formats import Piece, file_name, file_path
from pipeline.source.tables import read_snapshot
from tests.written_tables import Table, column, delta_log, iceberg_catalog, root_of, rows


def read(source: Source) -> list[dict[str, Any]]:
    """Surveys and reads all files of a table; returns texts and columns, by id if there is one."""
    found = []
    for info in read_snapshot("docs", source).files:
        name = file_name(source, info)
        seen = formats.survey(info, name, source)
        pieces = [
            Piece("docs", name, info.version, info.size, "rows", span.start, span.stop, seen.table)
            for span in seen.spans
        ]
        for raw in formats.read(file_path(source, name), pieces, source, seen.columns):
            columns = {
                key: raw.columns.column(key).cast(seen.columns.field(key).type) for key in seen.columns.names
            }
            found += pa.table({"text": raw.texts, **columns}).to_pylist()
    return sorted(found, key=lambda row: (row.get("id") is None, row.get("id")))


def delta(root: Path | str, carry: Sequence[str] = (), **settings: Any) -> Source:
    pytest.importorskip("deltalake")
    return Source(path=str(root), format="delta", carry=tuple(carry), **{"id_column": "id"} | settings)


def scanned(root: Path) -> list[dict[str, Any]]:
    """Returns the rows as deltalake reads them."""
    from deltalake import DeltaTable

    table = pa.table(DeltaTable(str(root)).scan())
    return sorted(table.to_pylist(), key=lambda row: row["id"])


@pytest.mark.parametrize("mode", ["name", "id"])
def test_mapped_columns_of_delta(tmp_path: Path, mode: str) -> None:
    """The table has renamed all columns; in a mode by ids, only the ids lead to them."""

    def field(name: str, kind: Any, number: int) -> dict[str, Any]:
        return column(name, kind, id=number, physicalName=f"col-{number}")

    meta = {"type": "struct", "fields": [field("lang", "string", 4), field("late", "string", 6)]}
    schema = [
        field("id", "long", 1),
        field("text", "string", 2),
        field("meta", meta, 3),
        field("day", "date", 5),
    ]
    inner = [pa.field("col-4", pa.string(), metadata={"PARQUET:field_id": "4"})]
    file = pa.table(
        [pa.array([1, 2], pa.int64()), ["a", "b"], pa.array([{"col-4": "en"}, None], pa.struct(inner))],
        schema=pa.schema(
            [
                pa.field("col-1", pa.int64(), metadata={"PARQUET:field_id": "1"}),
                pa.field("col-2", pa.string(), metadata={"PARQUET:field_id": "2"}),
                pa.field("col-3", pa.struct(inner), metadata={"PARQUET:field_id": "3"}),
            ]
        ),
    )
    delta_log(
        tmp_path / "t", schema, {"0.parquet": file}, ["columnMapping"],
        partitions={"0.parquet": {"col-5": "2026-01-02"}}, delta_columnMapping_mode=mode,
    )  # fmt: skip
    found = read(delta(tmp_path / "t", ["day", "meta.lang", "meta.late"]))
    wanted = [
        {"text": row["text"], "id": row["id"], "day": row["day"],
         "meta_lang": (row["meta"] or {}).get("lang"),
         "meta_late": None}
        for row in scanned(tmp_path / "t")
    ]  # fmt: skip
    assert found == wanted
    with pytest.raises(
        SourceError, match="column 'meta' has other fields inside.*carry its fields one by one"
    ):
        read(delta(tmp_path / "t", ["meta"]))


def test_files_of_delta_from_before_a_column_and_before_a_wider_type(tmp_path: Path) -> None:
    schema = [
        column("id", "long"),
        column("text", "string"),
        column("cost", "decimal(12,2)"),
        column("new", "string"),
    ]
    old = pa.table({"id": pa.array([1], pa.int32()), "text": ["a"], "cost": [Decimal("1.50")]})
    cost = pa.array([Decimal("12345678.25")], pa.decimal128(12, 2))
    new = pa.table({"id": [2**40], "text": ["b"], "cost": cost, "new": ["x"]})  # fmt: skip
    delta_log(tmp_path / "t", schema, {"0.parquet": old, "1.parquet": new}, ["typeWidening"])
    assert read(delta(tmp_path / "t", ["cost", "new"])) == [
        {"text": "a", "id": 1, "cost": Decimal("1.50"), "new": None},
        {"text": "b", "id": 2**40, "cost": Decimal("12345678.25"), "new": "x"},
    ]


def test_a_file_without_the_text_has_only_nulls(tmp_path: Path) -> None:
    schema = [column("id", "long"), column("text", "string")]
    delta_log(
        tmp_path / "t", schema, {"0.parquet": pa.table({"id": [1, 2]}), "1.parquet": pa.table({"x": [1]})}
    )
    assert read(delta(tmp_path / "t")) == [
        {"text": None, "id": 1},
        {"text": None, "id": 2},
        {"text": None, "id": None},
    ]


def test_a_partition_column_may_be_the_text_or_the_id(tmp_path: Path) -> None:
    schema = [column("id", "long"), column("text", "string")]
    files = {f"{number}.parquet": pa.table({"n": [number, number]}) for number in range(2)}
    values = {name: {"id": str(at), "text": f"text {at}"} for at, name in enumerate(files)}
    delta_log(tmp_path / "t", schema, files, partitions=values)
    found = read(delta(tmp_path / "t"))
    assert found == [{"text": f"text {at}", "id": at} for at in (0, 0, 1, 1)]


def iceberg(root: str, carry: Sequence[str] = (), **settings: Any) -> Source:
    return Source(path=root, format="iceberg", carry=tuple(carry), **{"id_column": "id"} | settings)


def test_an_evolved_schema_of_iceberg(tmp_path: Path) -> None:
    """Columns are renamed, added, made wider, and dropped and added again under the same name."""
    pytest.importorskip("pyiceberg")
    from pyiceberg.types import IntegerType, LongType, StringType

    first = pa.schema([("id", pa.int32()), ("body", pa.string()), ("tag", pa.string()),
                       ("meta", pa.struct([("lang", pa.string())]))])  # fmt: skip
    table = iceberg_catalog(tmp_path, f"file://{tmp_path}/lake").create_table("db.docs", schema=first)
    old = {"id": pa.array([1, 2], pa.int32()), "body": ["a", "b"], "tag": ["old", "old"],
           "meta": [{"lang": "en"}, None]}  # fmt: skip
    table.append(pa.table(old, schema=first))
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.rename_column("body", "text").update_column("id", LongType())
        change.rename_column(("meta", "lang"), "language").delete_column("tag")
    with table.update_schema() as change:
        change.add_column("tag", StringType()).add_column("count", IntegerType())
    new = {"id": [2**40], "text": ["c"], "meta": [{"language": "de"}], "tag": ["new"],
           "count": pa.array([7], pa.int32())}  # fmt: skip
    table.append(pa.table(new))
    found = read(iceberg(root_of(table), ["tag", "count", "meta.language"]))
    wanted = [
        {"text": row["text"], "id": row["id"], "tag": row["tag"], "count": row["count"],
         "meta_language": (row["meta"] or {}).get("language")}
        for row in sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])
    ]  # fmt: skip
    assert [row["tag"] for row in wanted] == [None, None, "new"]
    assert found == wanted
    snapshot = table.metadata.snapshots[0].snapshot_id
    before = read(iceberg(root_of(table), ["tag"], text_column="body", version=snapshot))
    assert before == [{"text": "a", "id": 1, "tag": "old"}, {"text": "b", "id": 2, "tag": "old"}]


def test_files_of_iceberg_without_field_ids_go_by_the_name_mapping(tmp_path: Path) -> None:
    """Such files were written by others, and added to the table; they need not hold partition columns."""
    pytest.importorskip("pyiceberg")
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("day", pa.date32())])
    catalog = iceberg_catalog(tmp_path, f"file://{tmp_path}/lake")
    table = catalog.create_table("db.docs", schema=schema)
    with table.update_spec() as change:
        change.add_identity("day")
    path = Path(root_of(table), "data", "day=2026-01-02", "0.parquet")
    path.parent.mkdir(parents=True)
    whole = pa.table(
        [[1, 2], ["a", "b"], pa.array([20455, 20455], pa.int32()).cast(pa.date32())], schema=schema
    )
    pq.write_table(whole, path)
    table.add_files([f"file://{path}"])
    assert (
        read(iceberg(root_of(table), ["day"]))
        == table.scan().to_arrow().select(["text", "id", "day"]).to_pylist()
    )
    source = iceberg(root_of(table), ["day"])
    [info] = read_snapshot("docs", source).files
    pq.write_table(whole.drop_columns(["day"]), path)
    seen = formats.survey(replace(info, size=path.stat().st_size), file_name(source, info), source)
    piece = Piece(
        "docs", file_name(source, info), info.version, path.stat().st_size, "rows", 0, 2, seen.table
    )
    [raw] = formats.read(str(path), [piece], source, seen.columns)
    assert raw.columns.to_pylist() == [{"id": row["id"], "day": row["day"]} for row in whole.to_pylist()]


def test_a_file_of_another_size_than_the_log_says_is_refused(tmp_path: Path) -> None:
    table = Table("delta", tmp_path)
    table.append(rows(1, 2))
    source = Source(**table.source()["docs"])
    [info] = read_snapshot("docs", source).files
    name = file_name(source, info)
    seen = formats.survey(info, name, source)
    Path(info.path).write_bytes(Path(info.path).read_bytes() + b"x")
    piece = Piece("docs", name, info.version, info.size, "rows", 0, 2, seen.table)
    with pytest.raises(SourceError, match="is not the file that the table's log names"):
        list(formats.read(info.path, [piece], source, seen.columns))


@pytest.mark.parametrize("table", ["x", "eJw="])
def test_a_damaged_plan_is_told(tmp_path: Path, table: str) -> None:
    made = Table("delta", tmp_path)
    made.append(rows(1, 2))
    source = Source(**made.source()["docs"])
    [info] = read_snapshot("docs", source).files
    piece = Piece("docs", file_name(source, info), info.version, info.size, "rows", 0, 2, table)
    with pytest.raises(SourceError, match="the plan does not say how it is read"):
        list(formats.read(info.path, [piece], source, pa.schema([])))


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_another_process_surveys_the_files_of_a_table_alike(tmp_path: Path, kind: str) -> None:
    made = Table(kind, tmp_path)
    made.append(rows(*range(10)))
    made.delete_by_position([1, 4])
    sources = {"docs": Source(**made.source()["docs"])}
    listed = [("docs", info) for info in read_snapshot("docs", sources["docs"]).files]
    [here], [there] = inspection.look(listed, sources), survey.survey(listed, sources)
    assert isinstance(there, formats.Survey)
    assert there == here
    assert there.deleted is not None
    assert there.deleted.to_pylist() == [1, 4]
