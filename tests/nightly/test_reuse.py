"""Tests what a nightly run takes from its base: the base belongs to others, and may have changed in any way.

Driver and workers are the real ones, called by hand in one process; with Ray they run in tests/driver.
"""

import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import parsing, schema, telemetry
from pipeline.config.load import parse_config
from pipeline.config.sections import Config
from pipeline.dataset.commit import CommitRequest, commit
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import RECORD, Failure, ShardRecord, parquet_bytes
from pipeline.driver import run
from pipeline.embed.encode import Encode
from pipeline.embed.job import Job
from pipeline.errors import ConfigError, DeniedError, ExitCode, OtherDatasetError, StorageError
from pipeline.model.check import usable_checkpoint
from pipeline.model.checkpoint import Checkpoint
from pipeline.nightly import base as base_module
from pipeline.nightly import copy_shards
from pipeline.nightly.base import Digests, base_of
from pipeline.nightly.choose_base import recorded_base, resolve_base
from pipeline.plan.plan import Plan
from tests.conftest import read_dataset, texts
from tests.splits import embedded

Values = Callable[..., dict[str, Any]]


_PLANS: dict[str, bytes] = {}
_CHECKPOINTS: dict[str, Checkpoint] = {}
_REPLICAS: dict[str, Encode] = {}
"""Plans, checkpoints and replicas, made once: that takes longer than a run of 60 rows, and none changes."""


def checkpoint(parsed: Config) -> Checkpoint:
    key = parsed.model.model_dump_json()
    if key not in _CHECKPOINTS:
        _CHECKPOINTS[key] = usable_checkpoint(parsed)
    return _CHECKPOINTS[key]


def replica(job: Job) -> Encode:
    if job.vector_digest not in _REPLICAS:
        _REPLICAS[job.vector_digest] = Encode(job)
    return _REPLICAS[job.vector_digest]


@dataclass
class Night:
    """A nightly run whose driver has just started."""

    dataset: Dataset
    plan: Plan
    identity: Identity
    job: Job

    @classmethod
    def starts(cls, values: dict[str, Any]) -> "Night":
        parsed = parse_config(values)
        model = checkpoint(parsed)
        dataset, identity = Dataset.of(parsed), Identity.of(parsed, model)
        if identity.dataset_digest in _PLANS and not dataset.plan_bytes():
            dataset.claim(identity, parsed, resolve_base(parsed))
            dataset.freeze(_PLANS[identity.dataset_digest])
        frozen = run.frozen_plan(parsed, dataset, identity, model)
        _PLANS[identity.dataset_digest] = frozen.to_bytes()
        base = recorded_base(dataset, identity, parsed.output.options)
        job = run._job(parsed, model, identity, frozen, base)
        dataset.storage.put(dataset.layout.attempt(job.attempt), b"{}")
        return cls(dataset, frozen, identity, job)

    def copy(self) -> list[ShardRecord]:
        """Copies shards, as the driver does first."""
        if self.job.base is None:
            return []
        base = base_of(self.job.base, self.job.config.output.options, self.job.base_digests)
        return list(copy_shards.copy_shards(base, self.dataset, self.identity, self.plan))

    def embed(self) -> list[Failure]:
        """Embeds the pending splits, as workers do."""
        base_of.cache_clear()  # a worker is another process than the driver
        ended: list[ShardRecord | Failure] = []
        for scan in self.plan.pending(self.dataset.shards()).scans():
            ended += embedded(scan, self.job, replica(self.job))
        return [each for each in ended if isinstance(each, Failure)]

    def ends(self, copy: bool = True) -> RunResult:
        """Does the rest of the run."""
        if copy:
            self.copy()
        return commit(CommitRequest(self.dataset, self.plan, self.embed(), self.job.config.quality, {}))


def counts(ending: RunResult) -> dict[str, int]:
    assert ending.code == ExitCode.DONE, ending.reason
    return {name: ending.summary.get(name, 0) for name in ("copied", "reused", "embedded", "rejects")}


def write_anew(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Writes a Parquet file again with other content, but with its old footer metadata."""
    pq.write_table(change(pq.read_table(path)), path)


def say(path: Path, **told: object) -> None:
    """Changes fields of the record in a shard's footer; removes those that are None."""
    table = pq.read_table(path)
    record = json.loads(table.schema.metadata[schema.RECORD_KEY]) | told
    record = {name: value for name, value in record.items() if name not in told or value is not None}
    pq.write_table(table.replace_schema_metadata({schema.RECORD_KEY: json.dumps(record)}), path)


def record(root: Path, split: str, **told: object) -> None:
    """Changes fields of a shard's record in the manifest."""
    rows = pq.read_table(root / "manifest.parquet").to_pylist()
    for row in rows:
        row.update(told if row["split_id"] == split else {})
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORD), root / "manifest.parquet")


def split_of(shard: Path) -> str:
    return shard.stem.removeprefix("part-")


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    base_of.cache_clear()
    base_module._hashes.cache_clear()
    yield
    base_of.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Values, Path]:
    """Returns a function that makes the values of a named job with `old` as default base; and that base."""
    folder = tmp_path_factory.mktemp("reuse")
    for number in range(3):
        rows = range(number * 20, number * 20 + 20)
        columns = {
            "key": list(rows),
            "text": texts(20, number * 20),
            "topic": [f"t{row % 3}" for row in rows],
        }
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    docs = {"path": f"{folder}/*.parquet", "text_column": "text", "id_column": "key", "carry": ["topic"]}

    def values(output: str, **sections: Any) -> dict[str, Any]:
        where = {"path": output, "rows_per_shard": 10}
        return {"source": {"docs": docs}, "model": {"name": str(tiny)}, "output": where} | sections

    assert Night.starts(values(str(folder / "old"))).ends().code == ExitCode.DONE
    return values, folder / "old"


@pytest.fixture
def values(made: tuple[Values, Path], tmp_path: Path) -> Values:
    def of(name: str, where: str = "series", **sections: Any) -> dict[str, Any]:
        base = {} if name == "old" else {"base": "old"}
        return made[0](str(tmp_path / where / name), **{"reuse": base} | sections)

    return of


@pytest.fixture
def old(made: tuple[Values, Path], tmp_path: Path) -> Path:
    """A complete dataset of 60 rows in 6 shards."""
    return Path(shutil.copytree(made[1], tmp_path / "series/old"))


@pytest.fixture
def shards(old: Path) -> list[Path]:
    return sorted((old / "data").glob("*.parquet"))


def vectors_of(root: Path) -> np.ndarray:
    return np.stack(read_dataset(root).column("embedding").to_numpy())


# A sound base.


@pytest.mark.usefixtures("old")
def test_what_is_unchanged_is_copied(values: Values) -> None:
    assert counts(Night.starts(values("new")).ends()) == {
        "copied": 60, "reused": 0, "embedded": 0, "rejects": 0,
    }  # fmt: skip


@pytest.mark.usefixtures("old")
def test_what_is_not_copied_is_reused(values: Values) -> None:
    night = Night.starts(values("new"))
    assert night.job.base_digests == Digests.of(night.identity)
    assert counts(night.ends(copy=False))["reused"] == 60


@pytest.mark.parametrize("reason", ["out_of_memory", "non_finite_vector"])
@pytest.mark.parametrize("copy", [True, False])
def test_a_reject_that_may_be_mended_is_tried_again_by_the_next_night(
    values: Values, old: Path, shards: list[Path], copy: bool, reason: str
) -> None:
    """The reject is made by hand: no test can make a real device fail at a row once and not again."""
    lost = pq.read_table(shards[0]).slice(0, 1)
    place = {name: lost.column(name)[0].as_py() for name in ("source_file", "source_row")}
    split, name = split_of(shards[0]), f"part-{split_of(shards[0])}-0.parquet"
    reject = {**place, "reason": reason, "permanent": False, "text": None}
    (old / "rejects").mkdir()
    (old / "rejects" / name).write_bytes(parquet_bytes(pa.Table.from_pylist([reject], schema=schema.REJECTS)))
    write_anew(shards[0], lambda table: table.slice(1))
    told = {"rows": 9, "rejects": 1, "transient": 1, "rejects_file": name}
    say(shards[0], **told)
    record(old, split, **told)
    found = counts(Night.starts(values("new")).ends(copy))
    assert found == {
        "copied": 50 if copy else 0, "reused": 9 if copy else 59, "embedded": 1, "rejects": 0,
    }  # fmt: skip
    assert lost.column("key")[0].as_py() in read_dataset(old.parent / "new").column("key").to_pylist()


# A base that is no longer what it was.


@pytest.mark.parametrize("then", ["another model", "nothing"])
def test_a_base_that_is_made_again_while_a_night_is_at_work_costs_reuse(
    values: Values, old: Path, then: str
) -> None:
    """An operator removes it, because it was bad, and makes it again with another prefix."""
    night, full = Night.starts(values("new")), Night.starts(values("full", reuse={}))
    shutil.rmtree(old)
    if then == "another model":
        model = values("old")["model"] | {"prefix": "passage: "}
        assert Night.starts(values("old", model=model)).ends().code == ExitCode.DONE
    found = counts(night.ends())
    assert (found["copied"], found["reused"], found["embedded"]) == (0, 0, 60)
    assert full.ends().code == ExitCode.DONE
    np.testing.assert_allclose(vectors_of(old.parent / "new"), vectors_of(old.parent / "full"), atol=1e-6)


def test_a_manifest_of_another_base_is_not_believed(values: Values, old: Path, tmp_path: Path) -> None:
    """A worker that starts while the base is made again reads the new manifest, or the old dataset.json."""
    night = Night.starts(values("new"))
    model = values("old")["model"] | {"prefix": "passage: "}
    Night.starts(values("old", "elsewhere", model=model)).ends()
    for name in ("dataset.json", "manifest.parquet"):
        shutil.copy(tmp_path / "elsewhere/old" / name, old / name)
    for shard in (tmp_path / "elsewhere/old/data").glob("*.parquet"):
        shutil.copy(shard, old / "data")
    assert counts(night.ends())["embedded"] == 60


@pytest.mark.parametrize("field", ["vector_digest", "dataset_digest", "split_id"])
def test_a_shard_that_says_it_is_another_datasets_is_not_taken(
    values: Values, shards: list[Path], field: str
) -> None:
    say(shards[0], **{field: "another"})
    for copy in (True, False):
        night = Night.starts(values(f"new-{copy}"))
        found = counts(night.ends(copy))
        assert found["embedded"] == 10
        assert found["copied" if copy else "reused"] == 50


@pytest.mark.usefixtures("old")
def test_shards_that_do_not_say_whose_they_are_are_taken(values: Values, shards: list[Path]) -> None:
    """Shards of older versions do not name their dataset; the others name this one."""
    night = Night.starts(values("new"))
    for shard, told in zip(
        shards,
        [{}, {"vector_digest": None}, {"vector_digest": night.identity.vector_digest}],
        strict=False,
    ):
        say(shard, **told)
    assert len(night.copy()) == 6


# A base that is damaged, or pruned.

GONE = "gone"
DAMAGE = {
    GONE: None,
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "of a later version": b'{"format_version": 2, "dataset_digest": "x"}',
    "of no version": b'{"format_version": 1}',
    "zeros": b"PAR1" + bytes(100) + b"PAR1",
    "no text": b"\xff\xfe",
}


def damage(path: Path, how: str) -> None:
    content = DAMAGE[how]
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "how"),
    [
        *(("dataset.json", how) for how in DAMAGE),
        *(("manifest.parquet", how) for how in (GONE, "empty", "zeros")),
        *(("plan.parquet", how) for how in (GONE, "empty", "zeros")),
        *(("summary.json", how) for how in (GONE, "not JSON", "a list", "no text")),
    ],
)
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_damaged_base_costs_reuse_and_never_the_night(
    values: Values, old: Path, file: str, how: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An attempt that died has frozen the base in dataset.json, so every later driver finds it."""
    night = Night.starts(values("new"))
    damage(old / file, how)
    base_of.cache_clear()
    with caplog.at_level(logging.WARNING, "pipeline"):
        if when == "before":
            night = Night.starts(values("new"))
        copied = night.copy()
        warnings = len(caplog.records)
        found = counts(night.ends(copy=False))
    assert sum(found.values()) == 60
    assert len(copied) == (6 if file == "summary.json" else 0)
    if file in ("dataset.json", "manifest.parquet"):
        assert found["embedded"] == 60
    assert warnings == (file != "summary.json")
    read_dataset(old.parent / "new")


@pytest.mark.usefixtures("old")
def test_what_storage_did_not_do_this_time_is_no_damage(values: Values, old: Path) -> None:
    """Otherwise a temporary failure would make a run embed everything again."""
    Night.starts(values("new"))

    def fail(operation: str, path: str) -> None:
        if (operation, path) == ("read", str(old / "manifest.parquet")):
            raise StorageError("no answer", path)

    telemetry.observers.append(fail)
    try:
        with pytest.raises(StorageError, match="no answer"):
            Night.starts(values("new"))
    finally:
        telemetry.observers.remove(fail)


# A forged base.


def extended(table: pa.Table) -> pa.Table:
    """Adds a column of a type that some processes know, and this one does not."""
    field = pa.field("topic", pa.string(), metadata={parsing.EXTENSION_KEY: b"another.library"})
    at = table.schema.get_field_index("topic")
    return table.set_column(at, field, table.column("topic"))


def pickled(table: pa.Table) -> pa.Table:
    """Adds a column whose values are unpickled by a process that has loaded Ray."""
    kind = {parsing.EXTENSION_KEY: b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
    values = pa.array([pickle.dumps("t")] * table.num_rows, pa.large_binary())
    at = table.schema.get_field_index("topic")
    return table.set_column(at, pa.field("topic", pa.large_binary(), metadata=kind), values)


def added(table: pa.Table) -> pa.Table:
    return table.append_column("evil", pa.array([b"x"] * table.num_rows))


def retyped(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("n_tokens")
    return table.set_column(at, "n_tokens", table.column("n_tokens").cast(pa.int64()))


def of_strings(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("embedding")
    return table.set_column(at, "embedding", pa.array(["x"] * table.num_rows))


@pytest.mark.parametrize("change", [extended, pickled, added, retyped, of_strings])
@pytest.mark.parametrize("copy", [True, False])
def test_a_shard_of_other_columns_is_not_taken(
    values: Values, old: Path, shards: list[Path], change: Callable[[pa.Table], pa.Table], copy: bool
) -> None:
    write_anew(shards[0], change)
    record(old, split_of(shards[0]), file_bytes=shards[0].stat().st_size)
    found = counts(Night.starts(values("new")).ends(copy))
    assert (found["copied"], found["reused"] + found["embedded"]) == ((50, 10) if copy else (0, 60))
    written = {pq.read_schema(path) for path in (old.parent / "new/data").glob("*.parquet")}
    expected = pq.read_schema(shards[1])
    assert all(each.equals(expected) for each in written)
    for each in written:
        parsing.refuse_extensions(each)


def test_a_footer_and_a_manifest_that_differ_are_not_believed(values: Values, shards: list[Path]) -> None:
    say(shards[0], rows=11)
    assert counts(Night.starts(values("new")).ends())["copied"] == 50


@pytest.mark.parametrize(
    "name",
    ["../../../outside/authorized_keys", "../data/_SUCCESS", "/etc/hostname", "../../LATEST.json",
     "part-x\n-0.parquet", "part-x-0.parquet/../y", ""],
)  # fmt: skip
def test_a_reject_file_outside_of_rejects_is_never_copied(
    values: Values, old: Path, shards: list[Path], tmp_path: Path, name: str
) -> None:
    """The manifest and the footer agree: both are forged."""
    for target in (tmp_path / "outside/authorized_keys", tmp_path / "a/b/c/outside/authorized_keys"):
        target.parent.mkdir(parents=True)
    (tmp_path / "outside/authorized_keys").write_text("an attacker's key")
    (old / "rejects").mkdir()
    say(shards[0], rejects_file=name)
    record(old, split_of(shards[0]), rejects_file=name)
    before = {path for path in tmp_path.rglob("*") if "series/new" not in str(path)}
    night = Night.starts(values("new", "a/b/c/series", reuse={"base": str(old)}))
    night.copy()
    after = {path for path in tmp_path.rglob("*") if "series/new" not in str(path)}
    assert after - before <= {tmp_path / "a/b/c/series"}
    assert not night.dataset.complete()
    assert counts(night.ends(copy=False))["copied"] == (60 if not name else 50)


@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:1/latest/meta-data",
        "s3://key:secret@bucket/x",
        "simplecache::s3://b/x",
        "a\x1b[2J/b",
    ],
)
def test_a_base_that_no_driver_of_ours_chose_is_refused(values: Values, old: Path, base: str) -> None:
    night = Night.starts(values("new"))
    path = Path(night.dataset.layout.identity)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": base}))
    with pytest.raises(OtherDatasetError, match=r"dataset.json: base: ") as raised:
        Night.starts(values("new"))
    assert raised.value.exit_code == ExitCode.OTHER_DATASET
    assert "secret" not in str(raised.value)


def test_a_damaged_reject_file_of_a_base_costs_one_copy(
    values: Values, old: Path, shards: list[Path]
) -> None:
    """Arrow raises an OSError on damaged Thrift, as storage does on failures; but a retry can't help."""
    name = f"part-{split_of(shards[0])}-abc.parquet"
    (old / "rejects").mkdir()
    (old / "rejects" / name).write_bytes(b"PAR1" + b"\xff" * 60 + (40).to_bytes(4, "little") + b"PAR1")
    say(shards[0], rejects_file=name)
    record(old, split_of(shards[0]), rejects_file=name, file_bytes=shards[0].stat().st_size)
    assert counts(Night.starts(values("new")).ends())["copied"] == 50


def test_a_shard_of_a_base_that_may_not_be_read_costs_its_copy(
    values: Values, old: Path, shards: list[Path]
) -> None:
    """The shard is an archived object, for example. Storage is patched, because root may read every file."""
    night = Night.starts(values("new"))

    def refuse(operation: str, path: str) -> None:
        if operation == "open" and path == str(shards[0]):
            raise DeniedError("access denied", path)

    telemetry.observers.append(refuse)
    try:
        assert len(night.copy()) == 5
    finally:
        telemetry.observers.remove(refuse)


def test_a_base_on_another_storage_is_refused(job: Callable[..., dict[str, Any]]) -> None:
    """Storage copies shards, and reaches only its own."""
    parsed = parse_config(job(reuse={"base": "s3://bucket/series/2026-11-01"}))
    with pytest.raises(ConfigError, match="is on another storage than the output"):
        resolve_base(parsed)
