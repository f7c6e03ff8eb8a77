"""Checks that a new output takes only a module and its line: all code gets the columns from there."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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
from tests.splits import first_read, first_split, written

Job = Callable[..., dict[str, Any]]

GREATEST = SimpleNamespace(
    COLUMNS=("greatest",),
    of_vectors=lambda vectors_ND: vectors_ND.max(axis=1, initial=-np.inf),
    fields=lambda *_: [pa.field("greatest", pa.float32(), nullable=False)],
    store=lambda values, _: [pa.array(values)],
)
"""An output with the greatest value of each vector."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(outputs.OUTPUTS, "greatest", GREATEST)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_it_is_a_column_of_every_shard(job: Job, tmp_path: Path, kind: str) -> None:
    row, told = first_split(job(model={"vector": kind}))
    record = written(Encode(told)(first_read(row, told)), told)
    assert isinstance(record, ShardRecord)
    [path] = (tmp_path / "out/data").iterdir()
    shard = pq.read_table(path)
    identity = Identity.of(told.config, checkpoint.resolve(told.config.model.name))
    assert shard.schema.equals(identity.shard_schema(told.columns), check_metadata=False)
    greatest = outputs.embedding.load(shard, 16).max(axis=1)
    np.testing.assert_allclose(shard["greatest"].to_numpy(), greatest, atol=0.01)
    assert content_digest(shard) == record.content_digest
    other = pa.array(shard["greatest"].to_numpy() + 1)
    changed = shard.set_column(shard.column_names.index("greatest"), "greatest", other)
    assert content_digest(changed) != record.content_digest


def test_no_source_may_carry_a_column_of_its_name(job: Job, corpus: Path) -> None:
    for path in corpus.iterdir():
        table = pq.read_table(path)
        pq.write_table(table.rename_columns(["key", "text", "Greatest"]), path)
    values = job()
    values["source"]["docs"]["carry"] = ["Greatest"]
    with pytest.raises(ConfigError, match="two columns of the shards would have one name"):
        first_split(values)
