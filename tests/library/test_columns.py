"""Checks what is said of rows whose columns do not fit, before Ray or Spark starts anything."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pipeline
from pipeline.errors import ConfigError
from tests.conftest import texts


def test_outputs_stand_behind_the_columns_of_a_batch(tiny: Path) -> None:
    rows = pa.table({"body": [*texts(3), None], "key": [1, 2, 3, 4]})
    found = pipeline.RayEmbedder(str(tiny), text_column="body")(rows)
    assert found.select(["body", "key"]) == rows
    assert found.column_names == ["body", "key", "embedding", "reject"]
    assert found.column("reject").to_pylist() == [None, None, None, "null"]


def test_batches_of_spark_keep_their_rows(tiny: Path) -> None:
    batch = pa.record_batch({"text": texts(3), "key": [1, 2, 3]})
    embedder = pipeline.SparkEmbedder(str(tiny))
    found = pa.Table.from_batches(embedder(iter([batch, batch.slice(0, 0)])))
    assert found.schema.field("embedding").type == pa.list_(pa.float32())
    assert found.select(["text", "key"]).to_pylist() == batch.to_pylist()
    vectors = np.array(found.column("embedding").to_pylist(), np.float32)
    assert np.array_equal(vectors, pipeline.Embedder(str(tiny), threads=1).embed(texts(3)))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["one"]}, "text_column: no such column .got text.; one of body"),
        ({"text": ["one"], "reject": [1]}, "columns that would be added are there already .got reject."),
    ],
)
def test_columns_that_do_not_fit_are_named(columns: dict[str, Any], message: str, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline.RayEmbedder(str(tiny))(pa.table(columns))


def test_options_of_ray_are_checked_before_any_actor_starts() -> None:
    cpu = pipeline.ray_options("some/model", text_column="body", cpus=4, prefix="query: ")
    constructor = cpu["fn_constructor_kwargs"]
    assert constructor == {
        "model": "some/model", "text_column": "body", "device": "cpu", "threads": 4, "prefix": "query: ",
    }  # fmt: skip
    assert (cpu["num_cpus"], cpu["num_gpus"], cpu["concurrency"]) == (4, 0, 1)
    gpu = pipeline.ray_options("some/model", device="cuda", replicas=(1, 8))
    assert (gpu["num_gpus"], gpu["concurrency"], gpu["fn_constructor_kwargs"]["threads"]) == (1, (1, 8), None)
    with pytest.raises(ConfigError, match="ray_options: truncate_dim = 0"):
        pipeline.ray_options("some/model", truncate_dim=0)
