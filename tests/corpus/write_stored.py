"""Writes the files under `stored` with Spark (parquet-java) and fastparquet: `-m tests.corpus.write_stored`.

The files are kept, because Spark takes a minute and fastparquet is not among what the tests need
(`pip install --target FOLDER fastparquet`, then `PYTHONPATH=FOLDER`).
"""

import datetime
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from tests.consumers import java

STORED = Path(__file__).parent / "stored"
MOMENT = datetime.datetime(2026, 7, 1, 12, 0, 0, 250_000, datetime.UTC)
ODD = ("a b", "50%", "x/y:z=1", "é中😀", "+", None)
"""Values of a partition, with what paths may not hold, or give a meaning to."""
CODECS = ("uncompressed", "snappy", "gzip", "zstd", "lz4", "lz4_raw")
TEXTS = ['He said "hi"', "a, b; c", "one\ntwo", "C:\\temp\\x", "今天 ä", " spaces ", "", None]


def session() -> Any:
    """Starts a Spark whose zone is not UTC, so that instants and wall clocks differ."""
    from pyspark.sql import SparkSession

    os.environ["JAVA_HOME"] = str(java.home(Path(tempfile.mkdtemp())))
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.session.timeZone": "America/New_York",
        "spark.ui.enabled": "false",
    }
    return SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()


def rows(spark: Any) -> Any:
    """Returns two rows with a column of each kind that Spark has."""
    spark.createDataFrame([(MOMENT,)], "at TIMESTAMP").createOrReplaceTempView("moment")
    return spark.sql("""
        SELECT 1 AS id, 'a text' AS text, at, TIMESTAMP_NTZ'2026-07-01 12:00:00.25' AS wall,
               DATE'1500-01-01' AS day, DATE'9999-12-31' AS last, 1.50BD AS price,
               123456789012345678901234567890.12BD AS large, X'00FF' AS bytes, CAST(7 AS TINYINT) AS tiny,
               CAST(0.5 AS FLOAT) AS half, INTERVAL '1 00:00:01' DAY TO SECOND AS spell,
               array('p', NULL) AS tags, map('k', 1, 'l', NULL) AS counts,
               array(named_struct('role', 'user', 'at', at)) AS turns
        FROM moment
        UNION ALL
        SELECT 2, 'another text', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    """)


def spark_parquet(spark: Any) -> None:
    frame = rows(spark).coalesce(1)
    settings = {
        "default": {},
        "micros": {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"},
        "millis": {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MILLIS"},
        "legacy_format": {"spark.sql.parquet.writeLegacyFormat": "true"},
        "legacy_days": {
            "spark.sql.parquet.datetimeRebaseModeInWrite": "LEGACY",
            "spark.sql.parquet.int96RebaseModeInWrite": "LEGACY",
        },
    }
    for name, values in settings.items():
        for key, value in values.items():
            spark.conf.set(key, value)
        frame.write.parquet(str(STORED / f"spark_{name}"))
        for key in values:
            spark.conf.unset(key)
    pages = {
        "parquet.writer.version": "PARQUET_2_0",
        "parquet.bloom.filter.enabled#text": "true",
        "parquet.bloom.filter.max.bytes": "64",
    }
    frame.write.options(**pages).parquet(str(STORED / "spark_second_version"))


def spark_codecs(spark: Any) -> None:
    for codec in CODECS:
        frame = spark.createDataFrame([(codec, "many words " * 40)], "text STRING, more STRING")
        frame.coalesce(1).write.parquet(str(STORED / "spark_codecs" / codec), compression=codec)


def spark_partitions(spark: Any) -> None:
    data = [(f"text {number}", value) for number, value in enumerate(ODD)]
    frame = spark.createDataFrame(data, "text STRING, key STRING").coalesce(1)
    frame.write.partitionBy("key").parquet(str(STORED / "spark_partitions"))


def spark_text_formats(spark: Any) -> None:
    frame = spark.createDataFrame(list(enumerate(TEXTS)), "id INT, text STRING").coalesce(1)
    frame.write.csv(str(STORED / "spark_csv"))
    frame.write.csv(str(STORED / "spark_csv_header"), header=True, compression="gzip")
    frame.write.csv(str(STORED / "spark_csv_tab"), sep="\t", nullValue="\\N", emptyValue="")
    frame.write.json(str(STORED / "spark_json"))
    rows(spark).coalesce(1).write.json(str(STORED / "spark_json_types"), compression="bzip2")


def fastparquet_files() -> None:
    import fastparquet

    frame = pd.DataFrame(
        {
            "text": ["a text", "another text", None],
            "key": pd.Series([1, 2, 3], dtype="int64"),
            # fastparquet takes the microseconds of pandas 3 for nanoseconds when it writes INT96.
            "at": pd.to_datetime(pd.Series([MOMENT, None, MOMENT])).dt.as_unit("ns"),
            "kind": pd.Categorical(["x", "y", "x"]),
            "maybe": pd.Series([1, None, 3], dtype="Int64"),
            "spell": pd.to_timedelta(pd.Series([3601, None, 1], dtype="float64"), unit="s"),
        }
    )
    for name, options in {
        "default": {},
        "int96": {"times": "int96", "compression": "ZSTD"},
        "hive": {"file_scheme": "hive", "partition_on": ["kind"], "row_group_offsets": [0, 1, 2]},
    }.items():
        (STORED / f"fastparquet_{name}").mkdir(parents=True)
        path = STORED / f"fastparquet_{name}" / ("" if name == "hive" else "a.parquet")
        fastparquet.write(str(path), frame, **options)
    (STORED / "fastparquet_json").mkdir()
    nested = pd.DataFrame({"text": ["a text"], "meta": [{"x": [1, 2]}]})
    fastparquet.write(
        str(STORED / "fastparquet_json" / "a.parquet"),
        nested,
        object_encoding={"meta": "json", "text": "utf8"},
    )


def main() -> None:
    """Writes all files again."""
    shutil.rmtree(STORED, ignore_errors=True)
    STORED.mkdir()
    spark = session()
    for write in (spark_parquet, spark_codecs, spark_partitions, spark_text_formats):
        write(spark)
    spark.stop()
    fastparquet_files()
    for checksum in STORED.rglob("*.crc"):
        checksum.unlink()


if __name__ == "__main__":
    main()
