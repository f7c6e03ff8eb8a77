"""Embeds rows with every type that Arrow has, and checks that each reader finds all values in the shards."""

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.driver import run
from pipeline.errors import ConfigError, ExitCode
from pipeline.model import checkpoint
from pipeline.plan.make import make_plan
from tests.flow import use_no_ray
from tests.source.formats import arrow_types

pytestmark = pytest.mark.full
REFUSED = ("decimal256", "struct by case")
TEXTS = ["a text", "another text", "the last text"]


def written() -> dict[str, pa.Array]:
    """Returns a column of each type that Parquet can hold, by the name of its type."""
    found = {}
    for name, array in arrow_types.columns():
        try:
            pq.write_table(pa.table({"x": array}), pa.BufferOutputStream())
        except pa.ArrowNotImplementedError:
            continue
        found[name] = array
    return found


def carried() -> dict[str, pa.Array]:
    return {name: array for name, array in written().items() if not name.endswith(REFUSED)}


def config(folder: Path, tiny: Path, columns: dict[str, pa.Array]) -> dict[str, Any]:
    """Writes a file with these columns; returns the values of a config that carries all of them."""
    (folder / "in").mkdir()
    names = [f"c{number}" for number in range(len(columns))]
    table = pa.table({"text": TEXTS, **dict(zip(names, columns.values(), strict=True))})
    pq.write_table(table, folder / "in" / "a.parquet")
    return {
        "source": {"docs": {"path": f"{folder}/in/*.parquet", "carry": names}},
        "model": {"name": str(tiny)},
        "output": {"path": f"{folder}/out"},
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The shards of a job over all types."""
    folder = tmp_path_factory.mktemp("types")
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        use_no_ray(patch)
        ending = run.run(parse_config(config(folder, tiny, carried())), quiet=True)
    assert ending.code == ExitCode.DONE, ending.reason
    return folder / "out" / "data"


def of_pyarrow(shards: Path, _: Any) -> pa.Table:
    return pq.read_table(shards)


def of_duckdb(shards: Path, _: Any) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.execute(f"FROM '{shards}/*.parquet'").to_arrow_table()


def of_polars(shards: Path, _: Any) -> pa.Table:
    return pl.read_parquet(shards).to_arrow()


def of_spark(shards: Path, request: pytest.FixtureRequest) -> pa.Table:
    return request.getfixturevalue("spark").read.parquet(str(shards)).toArrow()


@pytest.mark.parametrize("reader", [of_pyarrow, of_duckdb, of_polars, of_spark])
def test_a_reader_finds_every_value_of_every_type(
    shards: Path, request: pytest.FixtureRequest, reader: Callable[[Path, Any], pa.Table]
) -> None:
    found = reader(shards, request).sort_by("source_row")
    columns = carried()
    assert len(columns) > 600
    wrong = {
        name: (str(array.type), found.column(f"c{number}").to_pylist())
        for number, (name, array) in enumerate(columns.items())
        if arrow_types.plain(found.column(f"c{number}").to_pylist()) != arrow_types.plain(array.to_pylist())
    }
    assert not wrong


def test_every_other_type_is_refused_by_name(tmp_path: Path, tiny: Path) -> None:
    model = checkpoint.resolve(str(tiny))
    refused = {name: array for name, array in written().items() if name.endswith(REFUSED)}
    assert len(refused) == len(REFUSED) * (1 + 3 + 9)
    for number, (name, array) in enumerate(refused.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ConfigError, match="column 'c0' has a type that some readers refuse") as told:
            make_plan(parse_config(config(folder, tiny, {name: array})), model, "digest")
        assert "decimal256" in str(told.value) or "case does not count" in str(told.value), name
