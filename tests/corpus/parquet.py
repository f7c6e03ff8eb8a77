"""Files and folders as the writers of Parquet leave them, each with the rows that a job must make of it."""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

MOMENT = datetime.datetime(2026, 7, 1, 12, 0, 0, 250_000)
UTC = datetime.UTC
INSTANT = MOMENT.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """The settings of a source, and what a job over it must give.

    rows: the carried columns of the shards by name, in the order of the source.
    rejects: rejected rows by reason.  passed_over: what is not read, by reason.
    """

    source: Mapping[str, Any]
    rows: Mapping[str, list[Any]]
    rejects: Mapping[str, int] = field(default_factory=dict)
    passed_over: Mapping[str, int] = field(default_factory=dict)


def pyarrow_int96(folder: Path) -> Case:
    table = pa.table({"text": ["a", "b"], "at": [MOMENT, None]})
    pq.write_table(table, folder / "a.parquet", use_deprecated_int96_timestamps=True)
    return Case({"path": "*.parquet", "carry": ["text", "at"]}, {"text": ["a", "b"], "at": [INSTANT, None]})


def pyarrow_views_and_pages(folder: Path) -> Case:
    texts = pa.array(["one text", "another text"], pa.string_view())
    lists = pa.array([[1, 2], [3]], pa.list_view(pa.int16()))
    pq.write_table(
        pa.table({"text": texts, "lists": lists}),
        folder / "a.parquet",
        version="2.6",
        data_page_version="2.0",
        use_dictionary=False,
        column_encoding={"text": "DELTA_BYTE_ARRAY"},
        compression="brotli",
    )
    return Case(
        {"path": "*.parquet", "carry": ["text", "lists"]},
        {"text": ["one text", "another text"], "lists": [[1, 2], [3]]},
    )


def pyarrow_zones(folder: Path) -> Case:
    for name, zone in (("0", "+05:30"), ("1", "Europe/Berlin"), ("2", "UTC")):
        at = pa.array([INSTANT], pa.timestamp("us", zone))
        pq.write_table(pa.table({"text": [name], "at": at}), folder / f"{name}.parquet")
    return Case(
        {"path": "*.parquet", "carry": ["text", "at"]}, {"text": ["0", "1", "2"], "at": [INSTANT] * 3}
    )


def pandas_gzip(folder: Path) -> Case:
    pd.DataFrame({"text": ["a"], "key": [1]}).to_parquet(folder / "df.parquet.gz", compression="gzip")
    return Case({"path": "df.parquet.gz", "carry": ["text"], "id_column": "key"}, {"key": [1], "text": ["a"]})


def pandas_nothing(folder: Path) -> Case:
    frames = (
        pd.DataFrame({"id": [1, 2], "text": ["a", "b"]}),
        pd.DataFrame({"id": [3, 4], "text": [None, None]}),
        pd.DataFrame({"id": [], "text": []}),
        pd.DataFrame(),
    )
    for number, frame in enumerate(frames):
        frame.to_parquet(folder / f"{number}.parquet")
    return Case({"path": "*.parquet", "id_column": "id"}, {"id": [1, 2]}, {"null": 2})


def pandas_offset(folder: Path) -> Case:
    when = pd.to_datetime(pd.Series(["2026-07-01T17:30:00.25+05:30"]))
    pd.DataFrame({"text": ["a"], "when": when, "kind": pd.Categorical(["x"])}).to_parquet(
        folder / "a.parquet"
    )
    return Case({"path": "*.parquet", "carry": ["when", "kind"]}, {"when": [INSTANT], "kind": ["x"]})


def pandas_index(folder: Path) -> Case:
    index = pd.MultiIndex.from_tuples([("x", 7), ("y", 9)])
    pd.DataFrame({"text": ["a", "b"]}, index=index).to_parquet(folder / "a.parquet")
    source = {"path": "*.parquet", "id_column": "__index_level_1__", "carry": ["__index_level_0__"]}
    return Case(source, {"__index_level_1__": [7, 9], "__index_level_0__": ["x", "y"]})


def durations_of_three_units(folder: Path) -> Case:
    """The same second as pandas 2 (nanoseconds), pandas 3 and Polars (microseconds) write it."""
    for unit in ("ns", "us", "ms"):
        spell = pa.array([datetime.timedelta(seconds=1)], pa.duration(unit))
        pq.write_table(pa.table({"text": [unit], "spell": spell}), folder / f"{unit}.parquet")
    return Case({"path": "*.parquet", "carry": ["spell"]}, {"spell": [1_000_000] * 3})


def integers_and_decimals(folder: Path) -> Case:
    prices = {"0": pa.array([7], pa.int32()), "1": pa.array([Decimal("1.50")], pa.decimal128(10, 2))}
    for name, price in prices.items():
        pq.write_table(pa.table({"text": [name], "price": price}), folder / f"{name}.parquet")
    return Case({"path": "*.parquet", "carry": ["price"]}, {"price": [Decimal(7), Decimal("1.5")]})


def polars_types(folder: Path) -> Case:
    pl.DataFrame(
        {
            "text": ["a", "b"],
            "at": pl.Series([INSTANT, None], dtype=pl.Datetime("us", "Asia/Tokyo")),
            "kind": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])),
            "price": pl.Series([Decimal("1.50"), None], dtype=pl.Decimal(20, 2)),
            "tags": [["p"], []],
        }
    ).write_parquet(folder / "a.parquet")
    return Case(
        {"path": "*.parquet", "carry": ["at", "kind", "price", "tags"]},
        {"at": [INSTANT, None], "kind": ["x", "y"], "price": [Decimal("1.50"), None], "tags": [["p"], []]},
    )


def polars_partitions(folder: Path) -> Case:
    frame = pl.DataFrame({"text": ["a", "b"], "_tenant": ["0", "x y"]})
    for tenant, name in (("0", "_tenant=0"), ("x y", "_tenant=x%20y")):
        (folder / name).mkdir()
        frame.filter(pl.col("_tenant") == tenant).drop("_tenant").write_parquet(folder / name / "0.parquet")
    (folder / "_SUCCESS").touch()
    (folder / "_tenant=0_$folder$").touch()
    return Case(
        {"path": ".", "format": "parquet", "carry": ["text"], "partitions": ["_tenant"]},
        {"text": ["a", "b"], "_tenant": ["0", "x y"]},
        passed_over={"hidden": 1, "folder_marker": 1},
    )


def duckdb_types(folder: Path) -> Case:
    with duckdb.connect() as connection:
        connection.execute("CREATE TYPE kind AS ENUM ('news', 'blog')")
        connection.execute(
            "COPY (SELECT 'a' AS text, 'news'::kind AS kind, '{\"x\": 1}'::JSON AS meta, "
            "TIMESTAMPTZ '2026-07-01 12:00:00.25+00' AS at, [{'role': 'news'::kind}] AS turns) "
            f"TO '{folder}/a.parquet' (FORMAT parquet)"
        )
    return Case(
        {"path": "*.parquet", "carry": ["kind", "meta", "at", "turns"]},
        {"kind": ["news"], "meta": ['{"x": 1}'], "at": [INSTANT], "turns": [[{"role": "news"}]]},
    )


def duckdb_json_text(folder: Path) -> Case:
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT '{{}}'::JSON AS text) TO '{folder}/a.parquet' (FORMAT parquet)")
    return Case({"path": "*.parquet"}, {"source_row": [0]})


def bytes_of_an_old_writer(folder: Path) -> Case:
    data = pa.array([b"stra\xc3\x9fe", b"\xff", None])
    pq.write_table(pa.table({"text": data, "key": pa.array([b"1", b"2", b"3"])}), folder / "a.parquet")
    return Case(
        {"path": "*.parquet", "binary_as_string": True, "carry": ["text"], "id_column": "key"},
        {"key": ["1"], "text": ["straße"]},
        {"invalid_utf8": 1, "null": 1},
    )


def one_partition(folder: Path) -> Case:
    for day in ("2026-01-01", "2026-01-02"):
        (folder / f"date={day}").mkdir()
        pq.write_table(pa.table({"text": [day]}), folder / f"date={day}" / "0.parquet")
    return Case({"path": "date=2026-01-01/*.parquet", "partitions": ["date"]}, {"date": ["2026-01-01"]})


CASES: Mapping[str, Callable[[Path], Case]] = {
    write.__name__: write
    for write in (
        pyarrow_int96, pyarrow_views_and_pages, pyarrow_zones, pandas_gzip, pandas_nothing,
        pandas_offset, pandas_index, durations_of_three_units, integers_and_decimals, polars_types,
        polars_partitions, duckdb_types, duckdb_json_text, bytes_of_an_old_writer, one_partition,
    )
}  # fmt: skip
