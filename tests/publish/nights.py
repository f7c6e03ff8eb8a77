"""Makes three nights of a series, publishes them, and reads tables with each engine."""

import datetime
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import load_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests.conftest import texts, write_config
from tests.flow import use_no_ray

DATES = [datetime.date(2026, 11, day) for day in (24, 25, 26)]
NAMES = [date.isoformat() for date in DATES]
CATALOG = "test"
TABLE = "search.docs"
PLACES = [("source_file", "ascending"), ("source_row", "ascending")]
TARGETS = {
    "delta": {"format": "delta"},
    "iceberg": {"format": "iceberg", "catalog": CATALOG, "table": TABLE},
}


def corpora() -> Iterator[dict[str, pa.Table]]:
    """Yields the files of each night: rows are added, changed and removed, and then all files are others."""
    keys = list(range(40))
    words = dict(zip(keys, texts(40), strict=True))
    yield {f"{start}.parquet": _rows(keys[start : start + 20], words) for start in (0, 20)}
    words[3], words[25] = "another text for three", "another text for twenty-five"
    keys = [*keys[:10], *keys[12:], *range(40, 50)]
    words |= dict(zip(range(40, 50), texts(10, 40), strict=True))
    yield {f"{start}.parquet": _rows(keys[start : start + 20], words) for start in (0, 20, 40)}
    keys.reverse()
    yield {f"rewritten-{start}.parquet": _rows(keys[start : start + 25], words) for start in (0, 25)}


def _rows(keys: list[int], words: Mapping[int, str]) -> pa.Table:
    at = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    return pa.table(
        {
            "key": keys,
            "text": [words[key] for key in keys],
            "topic": [f"t{key % 3}" for key in keys],
            "at": pa.array([at + datetime.timedelta(hours=key) for key in keys], pa.timestamp("us", "UTC")),
            "author": [{"name": f"writer {key % 4}", "roles": ["editor"] * (key % 3)} for key in keys],
        }
    )


def make(folder: Path, tiny: Path, **output: Any) -> Path:
    """Embeds the three nights; returns the job's config, whose series is `folder/series`."""
    values = {
        "source": {
            "docs": {
                "path": f"{folder}/corpus/*.parquet", "text_column": "text", "id_column": "key",
                "carry": ["topic", "at", "author"],
            }
        },
        "model": {"name": str(tiny)},
        "output": {"path": f"{folder}/series/{{run_date}}", "rows_per_shard": 10} | output,
        "reuse": {"base": "latest", "match": "dataset"},
    }  # fmt: skip
    config = write_config(folder / "job.yaml", values)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        use_no_ray(patch)
        for date, files in zip(DATES, corpora(), strict=True):
            for old in corpus.iterdir():
                old.unlink()
            for name, table in files.items():
                pq.write_table(table, corpus / name)
            ending = run.run(load_config(str(config), run_date=date), quiet=True)
            assert ending.code == ExitCode.DONE, ending.reason
    return config


def config_at(made: Path, folder: Path, series: str, target: str) -> Path:
    """Writes a config like that of the nights, with its datasets in another series, and with one table."""
    values = json.loads(made.read_text())
    values["output"]["path"] = f"{series}/{{run_date}}"
    values["publish"] = {target: TARGETS[target]}
    return write_config(folder / f"{target}.yaml", values)


def of_dataset(root: str, filesystem: Any = None) -> pa.Table:
    """Returns the rows of a dataset as its folder has them."""
    return comparable(pq.read_table(f"{root}/data", filesystem=filesystem))


def comparable(table: pa.Table) -> pa.Table:
    """Returns rows in the order of the source, with types in which engines do not differ."""
    wanted = pa.schema(
        [
            ("key", pa.int64()),
            ("topic", pa.string()),
            ("at", pa.timestamp("us", "UTC")),
            ("author", pa.struct([("name", pa.string()), ("roles", pa.list_(pa.string()))])),
            ("embedding", pa.list_(pa.float32())),
            ("n_tokens", pa.int32()),
            ("truncated", pa.bool_()),
            ("text_hash", pa.binary()),
            ("source_file", pa.string()),
            ("source_row", pa.int64()),
        ]
    )
    return table.select(wanted.names).cast(wanted).sort_by(PLACES).combine_chunks()


def with_pyarrow(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    return pq.read_table(f"{series}/{NAMES[2]}/data")


def with_polars(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    import polars as pl

    return pl.read_parquet(f"{series}/{NAMES[2]}/data/*.parquet").to_arrow()


def with_duckdb(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    with duckdb(options) as connection:
        return connection.execute(f"FROM '{series}/{NAMES[2]}/data/*.parquet'").to_arrow_table()


def with_deltalake(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    from deltalake import DeltaTable

    return pa.table(DeltaTable(series, storage_options=dict(options or {})).to_pyarrow_table())


def with_polars_delta(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    import polars as pl

    return pl.read_delta(series, storage_options=dict(options or {})).to_arrow()


def with_duckdb_delta(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    with duckdb(options) as connection:
        return connection.execute(f"FROM delta_scan('{series}')").to_arrow_table()


def iceberg_table() -> Any:
    from pyiceberg.catalog import load_catalog

    return load_catalog(CATALOG).load_table(TABLE)


def with_pyiceberg(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    return iceberg_table().scan().to_arrow()


def with_polars_iceberg(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    import polars as pl

    return pl.scan_iceberg(iceberg_table()).collect().to_arrow()


def with_duckdb_iceberg(series: str, options: Mapping[str, str] | None = None) -> pa.Table:
    with duckdb(options) as connection:
        where = iceberg_table().metadata_location
        return connection.execute(f"FROM iceberg_scan('{where}')").to_arrow_table()


Reader = Callable[..., pa.Table]
READERS: dict[tuple[str, str], Reader] = {
    ("folder", "PyArrow"): with_pyarrow,
    ("folder", "Polars"): with_polars,
    ("folder", "DuckDB"): with_duckdb,
    ("delta", "deltalake"): with_deltalake,
    ("delta", "Polars"): with_polars_delta,
    ("delta", "DuckDB"): with_duckdb_delta,
    ("iceberg", "pyiceberg"): with_pyiceberg,
    ("iceberg", "Polars"): with_polars_iceberg,
    ("iceberg", "DuckDB"): with_duckdb_iceberg,
}
"""How each engine reads a table, or the folder of the last night, by the engine's name."""
ONLY_PLAIN = {("delta", "Polars"), ("iceberg", "Polars")}
"""Engines that read a table over shards with plain lists alone."""


EXTENSIONS = ("httpfs", "icu", "avro", "delta", "iceberg")


@contextmanager
def duckdb(options: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Yields a connection with the extensions for tables, which come from PyPI, as `INSTALL` leaves them."""
    module = pytest.importorskip("duckdb")
    with module.connect() as connection:
        for name in EXTENSIONS:
            package = pytest.importorskip(f"duckdb_extension_{name}")
            (file,) = Path(package.__file__).parent.glob(f"extensions/*/{name}.duckdb_extension")
            connection.execute(f"LOAD '{file}'")
        if options:
            server = options["AWS_ENDPOINT_URL"].partition("://")[2]
            connection.execute(
                f"CREATE SECRET (TYPE s3, URL_STYLE path, ENDPOINT '{server}', USE_SSL false, "
                f"REGION '{options['AWS_DEFAULT_REGION']}', KEY_ID '{options['AWS_ACCESS_KEY_ID']}', "
                f"SECRET '{options['AWS_SECRET_ACCESS_KEY']}')"
            )
        yield connection


def assert_reads(kind: str, series: str, wanted: pa.Table, options: Mapping[str, str] | None = None) -> None:
    """Checks that each engine finds exactly these rows and vectors in the table."""
    known = all(importlib.util.find_spec(f"duckdb_extension_{name}") for name in EXTENSIONS)
    for (of, engine), read in READERS.items():
        if of == kind and (known or engine != "DuckDB"):
            found = comparable(read(series, options))
            assert found.equals(wanted), engine
