"""Tests plans of files that do not fit together, have no rows, or lie in partitions."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.errors import ConfigError
from pipeline.model import checkpoint
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan


def planned(folder: Path, tiny: Path, path: str = "", **source: Any) -> Plan:
    settings = {"path": f"{folder}{path}", "format": "parquet"} | source
    config = parse_config(
        {
            "source": {"docs": settings},
            "model": {"name": str(tiny)},
            "output": {"path": str(folder.parent / "out")},
        }
    )
    return make_plan(config, checkpoint.resolve(config.model.name), "digest")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def write(folder: Path, name: str, **columns: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_a_decimal_never_becomes_a_double(folder: Path, tiny: Path) -> None:
    for wrap in (lambda array: array, lambda array: pa.StructArray.from_arrays([array], names=["of"])):
        decimals, doubles = pa.array(["1234567890123456.789"]).cast(pa.decimal128(20, 3)), pa.array([1.5])
        write(folder, "0.parquet", text=["a"], x=wrap(decimals))
        write(folder, "1.parquet", text=["b"], x=wrap(doubles))
        failed = planned(folder, tiny, carry=["x"]).failed_files
        assert list(failed) == ["docs/in/1.parquet"]
        assert "have no type in common that keeps all digits" in failed["docs/in/1.parquet"]


def test_most_of_the_data_decides_which_columns_fit(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet", text=["a"], key=[7.5])
    for number in (1, 2, 3):
        write(folder, f"{number}.parquet", text=["b"], key=["a key"])
    made = planned(folder, tiny, id_column="key")
    assert made.columns.field("key").type == pa.string()
    assert list(made.failed_files) == ["docs/in/0.parquet"]
    assert "column 'key': " in made.failed_files["docs/in/0.parquet"]


@pytest.mark.parametrize(("bits", "digits"), [(8, 3), (16, 5), (32, 10), (64, 19)])
def test_integers_and_decimals_become_decimals_that_hold_both(
    folder: Path, tiny: Path, bits: int, digits: int
) -> None:
    whole, price = pa.array([7], getattr(pa, f"int{bits}")()), pa.array([None], pa.decimal128(10, 2))
    write(folder, "0.parquet", text=["a"], x=whole, y=pa.array([[7]], pa.list_(whole.type)))
    write(folder, "1.parquet", text=["b"], x=price, y=pa.array([None], pa.list_(price.type)))
    made = planned(folder, tiny, carry=["x", "y"])
    assert not made.failed_files
    wanted = pa.decimal128(max(digits, 8) + 2, 2)
    assert [made.columns.field(name).type for name in ("x", "y")] == [wanted, pa.list_(wanted)]
    pa.array([2 ** (bits - 1) - 1], whole.type).cast(wanted)


def test_decimals_that_need_too_many_digits_fail(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet", text=["a"], x=pa.array([None], pa.decimal128(38, 0)))
    write(folder, "1.parquet", text=["b"], x=pa.array([None], pa.decimal128(38, 10)))
    assert list(planned(folder, tiny, carry=["x"]).failed_files) == ["docs/in/1.parquet"]


@pytest.mark.parametrize(
    ("zones", "joined"),
    [
        (["Europe/Berlin", "Asia/Tokyo"], "UTC"),
        (["Europe/Berlin", "Europe/Berlin"], "Europe/Berlin"),
        (["UTC", "+05:30"], "UTC"),
        (["-08:00", "-08:00"], "UTC"),
    ],
)
def test_zones_that_differ_become_utc(folder: Path, tiny: Path, zones: list[str], joined: str) -> None:
    for number, zone in enumerate(zones):
        moments = pa.array([number], pa.timestamp("us", zone))
        write(
            folder,
            f"{number}.parquet",
            text=["a"],
            at=moments,
            seen=pa.ListArray.from_arrays([0, 1], moments),
        )
    made = planned(folder, tiny, carry=["at", "seen"])
    assert not made.failed_files
    assert made.columns.field("at").type == pa.timestamp("us", joined)
    assert made.columns.field("seen").type.value_type == pa.timestamp("us", joined)


def test_a_moment_with_and_one_without_a_zone_do_not_fit(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet", text=["a"], at=pa.array([0], pa.timestamp("us", "UTC")))
    write(folder, "1.parquet", text=["a"], at=pa.array([0], pa.timestamp("us")))
    assert list(planned(folder, tiny, carry=["at"]).failed_files) == ["docs/in/1.parquet"]


def test_files_without_rows_decide_nothing(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet", text=pa.array([], pa.float64()), x=pa.array([], pa.string()))
    write(folder, "1.parquet", text=["a"], x=[1])
    write(folder, "2.parquet")
    write(folder, "3.parquet", text=[None], x=[None])
    made = planned(folder, tiny, carry=["x"])
    assert not made.failed_files
    assert made.columns.field("x").type == pa.int64()
    assert made.empty_files == 2
    assert made.not_read == "2 empty files"


def test_nulls_within_become_strings(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet", text=["a"], x=pa.array([[None]], pa.list_(pa.null())))
    assert planned(folder, tiny, carry=["x"]).columns.field("x").type == pa.list_(pa.string())


def test_a_source_without_rows_has_one_split(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet")
    write(folder, "1.parquet", text=pa.array([], pa.string()), x=pa.array([], pa.int32()))
    made = planned(folder, tiny, carry=["x"])
    assert len(made.split_ids) == 1
    assert not made.has_rows
    assert made.columns.field("x").type == pa.int32()
    assert Plan.from_bytes(made.to_bytes()).pieces == made.pieces


def test_names_that_do_not_count_are_in_the_plan(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet", text=["a"])
    for name in ("_SUCCESS", ".0.parquet.crc", "date=1_$folder$"):
        (folder / name).touch()
    made = planned(folder, tiny)
    assert made.passed_over == {"docs": {"folder_marker": 1, "hidden": 2}}
    assert made.not_read == "1 folder marker, 2 hidden names"
    assert Plan.from_bytes(made.to_bytes()).passed_over == made.passed_over
    assert made.pending([]).passed_over == made.passed_over


@pytest.mark.parametrize("path", ["/date=1/*.parquet", "/date=1/0.parquet", "/date=1", "/*/*.parquet", ""])
def test_a_partition_may_be_part_of_the_path(folder: Path, tiny: Path, path: str) -> None:
    write(folder, "date=1/0.parquet", text=["a"])
    made = planned(folder, tiny, path, partitions=["date"])
    assert made.columns == pa.schema({"id": pa.string(), "date": pa.string()})
    assert not made.failed_files


def test_a_key_of_the_path_is_no_column(folder: Path, tiny: Path) -> None:
    write(folder, "date=1/0.parquet", text=["a"])
    with pytest.raises(ConfigError, match=r"it is a key of the path: set partitions: \[date\]"):
        planned(folder, tiny, carry=["date"])


def test_a_table_is_not_planned(folder: Path, tiny: Path) -> None:
    write(folder, "0.parquet", text=["a"])
    (folder / "_delta_log").mkdir()
    with pytest.raises(ConfigError, match="is a Delta table"):
        planned(folder, tiny)
