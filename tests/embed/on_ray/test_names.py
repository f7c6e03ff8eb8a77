"""Embeds on Ray where every name has letters beyond ASCII, or signs that URLs and globs give a meaning to."""

import unicodedata
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from tests.conftest import only_on_ray, read_dataset

pytestmark = pytest.mark.full
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
FOLDERS = {
    "é": COMPOSED, "e\u0301": DECOMPOSED, "中": "中", "😀": "😀", "a b": "a b", "c%20d": "c d",
    "50%25": "50%",    "#1": "#1", "1+1": "1+1", "__HIVE_DEFAULT_PARTITION__": None,
}  # fmt: skip
"""Values of a partition as folders are called, and what they mean."""
KEY = f"{COMPOSED}{DECOMPOSED} 中😀 #1+1"
NAME = f"{KEY} %20"


@only_on_ray
def test_names_beyond_ascii_reach_the_shards_as_they_are(tmp_path: Path, tiny: Path, flow: None) -> None:
    for number, folder in enumerate(FOLDERS):
        path = tmp_path / f"from {NAME}" / f"{KEY}={folder}" / f"{NAME}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({NAME: [f"text {number}"] * 3, f"id {NAME}": [number] * 3}), path)
    source = {
        "path": str(tmp_path / f"from {NAME}"),
        "format": "parquet",
        "text_column": NAME,
        "id_column": f"id {NAME}",
        "partitions": [KEY],
    }
    output = tmp_path / f"to {NAME}"
    values = {
        "source": {"docs": source},
        "model": {"name": str(tiny)},
        "output": {"path": str(output), "rows_per_shard": 6},
    }
    ending = run.run(parse_config(values), quiet=True)
    assert ending.code == ExitCode.DONE, ending.reason
    wanted = {
        (number, value, f"docs/from {NAME}/{KEY}={folder}/{NAME}.parquet", row)
        for number, (folder, value) in enumerate(FOLDERS.items())
        for row in range(3)
    }
    names = [f"id {NAME}", KEY, "source_file", "source_row"]
    data = f"{output}/data"
    with duckdb.connect() as connection:
        of_duckdb = connection.read_parquet(f"{data}/*.parquet").to_arrow_table()
    for found in (read_dataset(output), of_duckdb, pl.read_parquet(data).to_arrow()):
        assert {tuple(row.values()) for row in found.select(names).to_pylist()} == wanted
        assert found.num_rows == len(wanted)
