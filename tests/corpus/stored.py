"""The files under `stored`, as Spark and fastparquet wrote them, with the rows that a job must make of each.

`write_stored` wrote them.
"""

import datetime
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.corpus.parquet import Case
from tests.corpus.write_stored import CODECS, MOMENT, ODD, STORED, TEXTS

SPARK: dict[str, Any] = {
    "id": 1, "at": MOMENT, "wall": MOMENT.replace(tzinfo=None), "day": datetime.date(1500, 1, 1),
    "last": datetime.date(9999, 12, 31), "price": Decimal("1.50"),
    "large": Decimal("123456789012345678901234567890.12"), "bytes": b"\x00\xff", "tiny": 7, "half": 0.5,
    "spell": 86_401_000_000, "tags": ["p", None], "counts": [("k", 1), ("l", None)],
    "turns": [{"role": "user", "at": MOMENT}],
}  # fmt: skip
"""The first row of `write_stored.rows`; all values of the second but its id and text are null."""
READ = [text.strip() for text in TEXTS if text]
"""The texts of a CSV of Spark, which strips spaces by default."""
NAMES = ["id", "text"]
Write = Callable[[Path], Case]


def spark_rows(name: str) -> Write:
    """Returns the case of a Parquet folder with `write_stored.rows`."""

    def case(_: Path) -> Case:
        rows = {column: [value, 2 if column == "id" else None] for column, value in SPARK.items()}
        carry = [column for column in SPARK if column != "id"]
        source = {"path": str(STORED / name), "format": "parquet", "id_column": "id", "carry": carry}
        return Case(source, rows, passed_over={"hidden": 1})

    case.__name__ = name
    return case


def spark_legacy_days(_: Path) -> Case:
    """Its first row has a day of the Julian calendar, which must not become another day."""
    source = {"path": f"{STORED}/spark_legacy_days/*.parquet", "id_column": "id", "carry": ["day", "at"]}
    return Case(source, {"id": [2], "day": [None], "at": [None]}, {"carried_type": 1})


def spark_codecs(_: Path) -> Case:
    source = {"path": f"{STORED}/spark_codecs", "format": "parquet", "carry": ["text", "more"]}
    rows = {"text": sorted(CODECS), "more": ["many words " * 40] * len(CODECS)}
    return Case(source, rows, passed_over={"hidden": len(CODECS)})


def spark_partitions(_: Path) -> Case:
    """Equal to what Spark was given, null included; the files are in the order of their names."""
    source = {
        "path": f"{STORED}/spark_partitions",
        "format": "parquet",
        "carry": ["text"],
        "partitions": ["key"],
    }
    order = [4, 1, 5, 0, 2, 3]
    rows = {"text": [f"text {number}" for number in order], "key": [ODD[number] for number in order]}
    return Case(source, rows, passed_over={"hidden": 1})


def spark_csv(_: Path) -> Case:
    dialect = {"escape": "\\", "names": NAMES}
    source = {"path": f"{STORED}/spark_csv", "format": "csv", "csv": dialect, "carry": ["text"]}
    return Case(source, {"text": READ}, {"blank": 2}, {"hidden": 1})


def spark_csv_header(_: Path) -> Case:
    source = {"path": f"{STORED}/spark_csv_header/*.gz", "format": "csv", "csv": {"escape": "\\"}}
    return Case({**source, "carry": ["text"]}, {"text": READ}, {"blank": 2})


def spark_csv_tab(_: Path) -> Case:
    dialect = {"escape": "\\", "names": NAMES, "null_values": ["\\N"], "quote": '"'}
    source = {"path": f"{STORED}/spark_csv_tab/*.csv", "format": "tsv", "csv": dialect, "carry": ["text"]}
    return Case(source, {"text": READ}, {"blank": 1, "null": 1})


def spark_json(_: Path) -> Case:
    source = {"path": f"{STORED}/spark_json/*.json", "format": "jsonl", "id_column": "id", "carry": ["text"]}
    texts = [text for text in TEXTS if text]
    return Case(source, {"id": [*range(len(texts))], "text": texts}, {"blank": 1, "null": 1})


def spark_json_types(_: Path) -> Case:
    """Its rows have no nulls, since Spark leaves these out; nested values become JSON."""
    carry = ["at", "price", "tags", "counts", "spell", "bytes"]
    source = {
        "path": f"{STORED}/spark_json_types/*.bz2",
        "format": "jsonl",
        "id_column": "id",
        "carry": carry,
    }
    values = {
        "id": 1, "at": "2026-07-01T08:00:00.250-04:00", "price": 1.5, "tags": '["p", null]',
        "counts": '{"k": 1, "l": null}', "spell": "INTERVAL '1 00:00:01' DAY TO SECOND", "bytes": "AP8=",
    }  # fmt: skip
    rows = {column: [value, 2 if column == "id" else None] for column, value in values.items()}
    return Case(source, rows)


def fastparquet(name: str) -> Write:
    """Returns the case of a file in which each column has a type of pandas.

    A duration is a time of day there: fastparquet writes it so.
    """

    def case(_: Path) -> Case:
        carry = ["at", "kind", "maybe", "spell"]
        source = {"path": f"{STORED}/{name}/*.parquet", "id_column": "key", "carry": carry}
        rows = {
            "key": [1, 2], "at": [MOMENT, None], "kind": ["x", "y"], "maybe": [1, None],
            "spell": ["01:00:01.000000", None],
        }  # fmt: skip
        return Case(source, rows, {"null": 1})

    case.__name__ = name
    return case


def fastparquet_hive(_: Path) -> Case:
    source = {
        "path": f"{STORED}/fastparquet_hive",
        "format": "parquet",
        "partitions": ["kind"],
        "carry": ["key"],
    }
    return Case(source, {"key": [1, 2], "kind": ["x", "y"]}, {"null": 1}, {"hidden": 2})


def fastparquet_json(_: Path) -> Case:
    source = {"path": f"{STORED}/fastparquet_json/*.parquet", "carry": ["meta"]}
    return Case(source, {"meta": ['{"x":[1,2]}']})


CASES: Mapping[str, Write] = {
    case.__name__: case
    for case in (
        *map(spark_rows, ("spark_default", "spark_micros", "spark_millis", "spark_legacy_format")),
        spark_rows("spark_second_version"), spark_legacy_days, spark_codecs, spark_partitions, spark_csv,
        spark_csv_header, spark_csv_tab, spark_json, spark_json_types, fastparquet("fastparquet_default"),
        fastparquet("fastparquet_int96"), fastparquet_hive, fastparquet_json,
    )
}  # fmt: skip
