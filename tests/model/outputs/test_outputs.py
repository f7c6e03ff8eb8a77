"""Checks that a new output takes only a module and its line: all code gets the columns from there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.identity import Identity
from pipeline.dataset.record import ShardRecord
from pipeline.dataset.writer import content_digest
from pipeline.embed.encode import Encode
from pipeline.errors import ConfigError
from pipeline.model import checkpoint, outputs
from tests.models_with_heads import with_classes
from tests.planted import replaced
from tests.splits import first_read, first_split, written

Job = Callable[..., dict[str, Any]]
BOTH = ["embedding", "classification"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return with_classes(tmp_path / "model", ["good", "bad", "ugly"])


@pytest.mark.parametrize("kind", ["float32", "int8", "binary"])
def test_each_output_has_its_columns_in_every_shard(job: Job, model: Path, tmp_path: Path, kind: str) -> None:
    row, told = first_split(job(model={"name": str(model), "vector": kind, "outputs": BOTH}))
    record = written(Encode(told)(first_read(row, told)), told)
    assert isinstance(record, ShardRecord)
    [path] = (tmp_path / "out/data").iterdir()
    shard = pq.read_table(path)
    identity = Identity.of(told.config, checkpoint.resolve(told.config.model.name))
    assert shard.schema.equals(identity.shard_schema(told.columns), check_metadata=False)
    assert content_digest(shard, BOTH) == record.content_digest
    for name, other in (("label", "other"), ("score", 2.0), ("scores", [2.0, 2.0, 2.0])):
        changed = replaced(shard, name, 3, other)
        assert content_digest(changed, BOTH) != record.content_digest, name


def test_no_source_may_carry_a_column_of_an_output(job: Job, model: Path, corpus: Path) -> None:
    for path in corpus.iterdir():
        table = pq.read_table(path)
        pq.write_table(table.rename_columns(["key", "text", "Label"]), path)
    values = job(model={"name": str(model)})
    values["source"]["docs"]["carry"] = ["Label"]
    first_split(values)  # the name is free without the output
    values["model"]["outputs"] = BOTH
    with pytest.raises(ConfigError, match="two columns of the shards would have one name"):
        first_split(values)


def test_a_carried_column_of_an_outputs_name_is_not_in_the_digest() -> None:
    spec = outputs.OutputSpec(dimension=2)
    vectors = np.ones((2, 2), np.float32)
    [stored] = outputs.store({"embedding": vectors}, spec)
    shard = pa.table(
        {"label": ["a", "b"], "embedding": stored, "source_row": [0, 1], "text_hash": [b"x", b"y"]}
    )
    assert content_digest(shard) == content_digest(shard.drop_columns(["label"]))
