"""Tests the identity of a dataset, its claim, and the records of its shards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import parsing, schema
from pipeline.config import sections
from pipeline.config.load import parse_config
from pipeline.dataset import dataset as dataset_module
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import OWN, Identity
from pipeline.dataset.ledger import Ledger
from pipeline.driver import run
from pipeline.errors import DamagedError, ExitCode, OtherDatasetError, StorageError
from pipeline.model import checkpoint
from pipeline.plan.make import make_plan
from tests.dataset.test_writer import contents, write

Job = Callable[..., dict[str, Any]]


def identity(values: dict[str, Any]) -> tuple[Identity, sections.Config, checkpoint.Checkpoint]:
    parsed = parse_config(values)
    model = checkpoint.resolve(parsed.model.name)
    return Identity.of(parsed, model), parsed, model


def test_what_changes_a_vector_and_what_changes_a_shard(job: Job) -> None:
    base, _, _ = identity(job())
    limits = {"quality": {"max_reject_fraction": 0}, "report": {"samples": 0, "texts": False}}
    same, _, _ = identity(job(compute={"batch_tokens": 7}, **limits))
    assert (same.vector_digest, same.dataset_digest) == (base.vector_digest, base.dataset_digest)
    away = job(output={"path": "s3://b/out", "options": {"region": "x"}})
    away["source"]["docs"] |= {"path": "s3://b/*.parquet"}
    elsewhere = away | {"source": {"docs": away["source"]["docs"] | {"options": {"profile": "x"}}}}
    assert identity(elsewhere)[0].dataset_digest == identity(away)[0].dataset_digest
    shards, _, _ = identity(job(output={"rows_per_shard": 7}))
    assert shards.vector_digest == base.vector_digest
    assert shards.dataset_digest != base.dataset_digest
    for model in ({"max_tokens": 7}, {"normalize": False}, {"pooling": "cls"}):
        assert identity(job(model=model))[0].vector_digest != base.vector_digest
    assert identity(job(model={"pooling": "mean"}))[0].vector_digest == base.vector_digest  # what auto means


def test_identity_survives_its_file(job: Job) -> None:
    base, parsed, _ = identity(job())
    again = Identity.from_bytes(base.to_bytes(parsed), "dataset.json")
    assert again.dataset_digest == base.dataset_digest
    with pytest.raises(OtherDatasetError, match="another version of this program"):
        Identity.from_bytes(b'{"format_version": 99}', "dataset.json")


def test_a_claim_is_for_one_config_alone(job: Job) -> None:
    base, parsed, _ = identity(job())
    dataset = Dataset(parsed.output.path)
    dataset.claim(base, parsed)
    dataset.claim(base, parsed)
    other, changed, _ = identity(job(model={"max_tokens": 7}))
    with pytest.raises(OtherDatasetError, match="model.max_tokens: 512 there, 7 here"):
        dataset.claim(other, changed)


@pytest.mark.parametrize("claimed", [True, False])
def test_a_plan_of_another_config_is_never_adopted(job: Job, claimed: bool) -> None:
    """A rival claims and freezes after we have read dataset.json and before we read plan.parquet."""
    rival, parsed, model = identity(job(model={"max_tokens": 7}))
    dataset = Dataset(parsed.output.path)
    if claimed:
        dataset.claim(rival, parsed)
    dataset.freeze(make_plan(parsed, model, rival.dataset_digest).to_bytes())
    ours, parsed, model = identity(job())
    with pytest.raises(OtherDatasetError):
        run.frozen_plan(parsed, dataset, ours, model)


def test_the_ledger_gives_way_to_the_shards(tmp_path: Path) -> None:
    dataset = Dataset(str(tmp_path))
    record = write(tmp_path, contents(np.ones((4, 3))))
    for stale in (replace(record, file_bytes=1, content_digest="stale"), replace(record, split_id="gone")):
        ledger = Ledger(dataset, f"a-{stale.split_id}")
        ledger.add(stale)
        ledger.flush()
    assert dataset.records(dataset.shards()).to_pylist()[0]["content_digest"] == record.content_digest
    ledger = Ledger(dataset, "b")
    ledger.add(replace(record, attempt="from the ledger"))
    ledger.flush()
    [row] = dataset.records(dataset.shards()).to_pylist()
    assert row["attempt"] == "from the ledger"


def test_a_ledger_that_cannot_be_written_keeps_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(str(tmp_path))
    record = write(tmp_path, contents(np.ones((1, 3))))
    ledger = Ledger(dataset, "a")
    ledger.add(record)

    def fail(path: str, data: bytes) -> None:
        raise StorageError("storage failed", path)

    with monkeypatch.context() as patched:
        patched.setattr(dataset.storage, "put", fail)
        ledger.flush()
    assert ledger.waiting == [record]
    ledger.flush()
    assert ledger.waiting == []


def test_our_own_versions_count_from_2_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets from before these versions have version 1, and their digests stay."""
    first, parsed, _ = identity(job())
    assert not {name for name in first.vector_fields if name in OWN}
    monkeypatch.setitem(OWN, "model.arithmetic", 2)
    second, _, _ = identity(job())
    assert second.vector_digest != first.vector_digest
    assert second.differences(first) == ["model.arithmetic: 1 there, 2 here"]
    dataset = Dataset(parsed.output.path)
    dataset.claim(first, parsed)
    with pytest.raises(OtherDatasetError, match="model.arithmetic: 1 there, 2 here"):
        dataset.refuse_other(second)


def test_a_large_plan_is_the_one_that_storage_has(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rival's parts arrived between ours, and storage told both writers that they had won."""
    monkeypatch.setattr(dataset_module, "LARGE_PLAN_BYTES", 3)
    dataset = Dataset(str(job()["output"]["path"]))

    def won(path: str, data: bytes) -> None:
        dataset.storage.put(path, b"a rival's")

    monkeypatch.setattr(dataset.storage, "put_if_absent", won)
    assert dataset.freeze(b"ours") == b"a rival's"


def test_only_who_claims_what_was_nobodys_is_told_so(job: Job) -> None:
    base, parsed, _ = identity(job())
    dataset = Dataset(parsed.output.path)
    assert dataset.claim(base, parsed)
    assert not dataset.claim(base, parsed)


def test_a_shard_with_a_damaged_footer_is_no_failure_of_storage(tmp_path: Path) -> None:
    """Arrow raises an OSError on damaged Thrift; a scheduler that retried it would retry for ever."""
    dataset = Dataset(str(tmp_path / "out"))
    path = Path(dataset.layout.shard("abc"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1" + b"\xff" * 60 + (40).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(DamagedError, match="footer can't be read") as raised:
        dataset.footer(dataset.storage.info(str(path)))
    assert raised.value.exit_code == ExitCode.CONFIG


def test_a_carried_field_within_a_struct_loses_the_name_of_an_extension() -> None:
    """GeoParquet files have such fields; a plan with one would be refused, because it may run code."""
    field = pa.field("geometry", pa.binary(), metadata={parsing.EXTENSION_KEY: b"geoarrow.wkb"})
    kind = schema.readable_type(pa.struct([field, pa.field("name", pa.large_string(), nullable=False)]))
    parsing.refuse_extensions(pa.schema([pa.field("place", kind)]))
    assert kind == pa.struct([("geometry", pa.binary()), pa.field("name", pa.string(), nullable=False)])
