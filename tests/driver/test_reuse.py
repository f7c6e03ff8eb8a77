"""Tests nightly runs: unchanged shards are copied, known vectors are reused, and the rest is embedded."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import _dated, parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult
from pipeline.driver import run
from pipeline.errors import ConfigError, ExitCode, ResourceError
from pipeline.nightly import Series
from tests.conftest import make_checkpoint, only_on_ray, read_dataset, texts

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]
FIRST = datetime.date(2026, 11, 1)


@pytest.fixture
def nightly(job: Job, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Returns a function that makes the values of a nightly job over the corpus."""

    def make(match: str = "file", **sections: Any) -> dict[str, Any]:
        output = {"path": str(tmp_path / "series/{run_date}"), "rows_per_shard": 10}
        return job(**{"output": output, "reuse": {"base": "latest", "match": match}} | sections)

    return make


def embed(values: dict[str, Any], night: int = 0) -> RunResult:
    parsed = parse_config(values)
    output = _dated(parsed.output, FIRST + datetime.timedelta(night))
    return run.run(parsed.model_copy(update={"output": output}), quiet=True)


def dataset(tmp_path: Path, night: int) -> Path:
    return tmp_path / "series" / (FIRST + datetime.timedelta(night)).isoformat()


def counts(ending: RunResult) -> dict[str, int]:
    return {name: ending.summary[name] for name in ("copied", "reused", "embedded", "rejects")}


def assert_like_a_full_run(values: dict[str, Any], tmp_path: Path, night: int) -> None:
    """Checks that the dataset equals, row by row, that of a run without reuse."""
    full = values | {"reuse": {}, "output": values["output"] | {"path": str(tmp_path / f"full{night}")}}
    assert embed(full).code == ExitCode.DONE
    ours, wanted = read_dataset(dataset(tmp_path, night)), read_dataset(tmp_path / f"full{night}")
    assert ours.schema == wanted.schema
    keys = [("source_file", "ascending"), ("source_row", "ascending")]
    keys += [("chunk", "ascending")] if "chunk" in ours.column_names else []
    ours, wanted = ours.sort_by(keys), wanted.sort_by(keys)
    for name in ours.column_names:
        if name == "embedding" and not pa.types.is_binary(ours.schema.field(name).type):
            vectors = (np.stack(table.column(name).to_numpy()).astype(np.float32) for table in (ours, wanted))
            np.testing.assert_allclose(*vectors, atol=1 if "embedding_scale" in ours.column_names else 1e-5)
        elif name == "embedding_scale":
            np.testing.assert_allclose(ours.column(name), wanted.column(name), rtol=1e-5)
        else:
            assert ours.column(name).equals(wanted.column(name)), name


def rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def test_a_night_without_changes_copies_everything(nightly: Job, tmp_path: Path) -> None:
    assert counts(embed(nightly(), 0)) == {"copied": 0, "reused": 0, "embedded": 60, "rejects": 0}
    ending = embed(nightly(), 1)
    assert counts(ending) == {"copied": 60, "reused": 0, "embedded": 0, "rejects": 0}
    old, new = (sorted((dataset(tmp_path, night) / "data").glob("*.parquet")) for night in (0, 1))
    assert [path.name for path in old] == [path.name for path in new]
    assert [path.stat().st_ino for path in old] == [path.stat().st_ino for path in new]
    latest = Series(str(tmp_path / "series")).latest()
    assert latest is not None
    assert (latest.dataset, latest.previous, latest.rows) == ("2026-11-02", "2026-11-01", 60)


@only_on_ray
@pytest.mark.full
def test_changed_rows_are_embedded_and_all_others_reused(nightly: Job, tmp_path: Path, corpus: Path) -> None:
    embed(nightly(), 0)
    table = pq.read_table(corpus / "1.parquet")
    changed = table.column("text").to_pylist()
    changed[3], changed[15], changed[16] = "a new text", None, "another new text"
    new = table.set_column(1, "text", pa.array(changed)).set_column(2, "topic", pa.array(["new"] * 20))
    appended = pa.concat_tables([new, table.slice(0, 2).set_column(1, "text", pa.array(["one", "two"]))])
    rewrite(corpus / "1.parquet", appended)
    (corpus / "2.parquet").unlink()
    rewrite(corpus / "3.parquet", pa.table({"key": [90], "text": ["of a new file"], "topic": ["t"]}))
    ending = embed(nightly(), 1)
    assert ending.code == ExitCode.DONE
    assert counts(ending) == {"copied": 20, "reused": 17, "embedded": 5, "rejects": 1}
    assert ending.summary["gone"] == 23
    assert_like_a_full_run(nightly(), tmp_path, 1)


@only_on_ray
@pytest.mark.full
def test_files_that_were_rewritten_under_other_names(nightly: Job, tmp_path: Path, corpus: Path) -> None:
    embed(nightly("dataset"), 0)
    everything = pa.concat_tables([pq.read_table(path) for path in sorted(corpus.glob("*.parquet"))])
    shuffled = everything.take(pa.array(np.random.default_rng(0).permutation(60)))
    for path in corpus.glob("*.parquet"):
        path.unlink()
    shuffled = shuffled.set_column(
        1, "text", pa.array(["quite new", *shuffled.column("text").to_pylist()[1:]])
    )
    for number in range(2):
        rewrite(corpus / f"part-{number}.parquet", shuffled.slice(number * 30, 30))
    ending = embed(nightly("dataset"), 1)
    assert counts(ending) == {"copied": 0, "reused": 59, "embedded": 1, "rejects": 0}
    assert not (dataset(tmp_path, 1) / "matches").exists()
    assert_like_a_full_run(nightly("dataset"), tmp_path, 1)


@pytest.mark.parametrize("match", ["file", "dataset"])
@pytest.mark.parametrize(
    "model",
    [
        {"long_text": "chunks", "max_tokens": 16}, {"long_text": "mean_of_chunks", "max_tokens": 16},
        {"vector": "int8"}, {"vector": "binary"},
    ],
    ids=["chunks", "mean", "int8", "binary"],
)  # fmt: skip
def test_every_kind_of_vector(
    nightly: Job, tmp_path: Path, corpus: Path, tiny: Path, match: str, model: dict[str, Any]
) -> None:
    values = nightly(match, model={"name": str(tiny)} | model)
    first = embed(values, 0)
    table = pq.read_table(corpus / "1.parquet")
    changed = [text if row % 5 else f"{text} but changed" for row, text in enumerate(texts(20, 20))]
    rewrite(corpus / "1.parquet", table.set_column(1, "text", pa.array(changed)))
    ending = embed(values, 1)
    assert ending.code == ExitCode.DONE
    per_file = pc.sum(
        pc.equal(read_dataset(dataset(tmp_path, 0)).column("source_file"), "docs/1.parquet")
    ).as_py()
    assert ending.summary["copied"] == first.summary["rows"] - per_file
    assert 0 < ending.summary["reused"] < per_file
    assert_like_a_full_run(values, tmp_path, 1)


def test_another_dataset_digest_reuses_vectors_and_another_vector_digest_nothing(
    nightly: Job, tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed(nightly(), 0)
    source = nightly()["source"]["docs"] | {"carry": []}
    ending = embed(nightly(source={"docs": source}), 1)
    assert counts(ending) == {"copied": 0, "reused": 60, "embedded": 0, "rejects": 0}
    assert read_dataset(dataset(tmp_path, 1)).column_names[:2] == ["key", "embedding"]
    other = {"name": str(make_checkpoint(tmp_path / "other", seed=1))}
    with caplog.at_level("INFO"):
        ending = embed(nightly(model=other), 2)
    assert counts(ending) == {"copied": 0, "reused": 0, "embedded": 60, "rejects": 0}
    assert "nothing is reused" in caplog.text
    assert "model.weights" in caplog.text


def test_another_column_type_is_never_mixed_in(nightly: Job, tmp_path: Path, corpus: Path) -> None:
    for number in range(2):
        table = pq.read_table(corpus / f"{number}.parquet").drop_columns("topic")
        rewrite(corpus / f"{number}.parquet", table.append_column("topic", pa.array([1] * 20, pa.int32())))
    (corpus / "2.parquet").unlink()
    embed(nightly(), 0)
    rewrite(
        corpus / "4.parquet", pa.table({"key": [7], "text": ["x"], "topic": pa.array([2**40], pa.int64())})
    )
    ending = embed(nightly(), 1)
    assert counts(ending) == {"copied": 0, "reused": 40, "embedded": 1, "rejects": 0}
    schemas = {
        pq.read_schema(path).field("topic").type for path in dataset(tmp_path, 1).glob("data/*.parquet")
    }
    assert schemas == {pa.int64()}


def test_a_base_that_is_none_is_refused(nightly: Job, tmp_path: Path) -> None:
    for base, message in (
        ("2026-10-01", "not a complete dataset"),
        (f"{tmp_path}/nowhere", "not a complete dataset"),
    ):
        with pytest.raises(ConfigError, match=message):
            embed(nightly(reuse={"base": base}))
    with pytest.raises(ConfigError, match="its own base"):
        embed(nightly(reuse={"base": FIRST.isoformat()}))
    assert not dataset(tmp_path, 0).exists()


def test_a_resume_keeps_to_the_base_of_the_first_driver(nightly: Job, tmp_path: Path, corpus: Path) -> None:
    embed(nightly(), 0)
    parsed = parse_config(nightly())
    output = _dated(parsed.output, FIRST + datetime.timedelta(2))
    from pipeline.dataset.identity import Identity
    from pipeline.model.check import usable_checkpoint

    parsed = parsed.model_copy(update={"output": output})
    model = usable_checkpoint(parsed)
    run.frozen_plan(parsed, Dataset.of(parsed), Identity.of(parsed, model), model)  # then it died
    embed(nightly(reuse={}), 1)
    ending = embed(nightly(), 2)
    assert Dataset.of(parsed).base() == str(dataset(tmp_path, 0))
    assert ending.summary["copied"] == 60


@pytest.mark.parametrize("match", ["file", "dataset"])
@pytest.mark.parametrize("damage", ["gone", "cut", "all gone"])
def test_what_of_a_base_can_not_be_read_is_embedded(
    nightly: Job, tmp_path: Path, corpus: Path, match: str, damage: str
) -> None:
    """The name of the base stays in `dataset.json`, so a damaged base must not stop every later run."""
    embed(nightly(match), 0)
    for number in range(3):  # no shard can be copied
        table = pq.read_table(corpus / f"{number}.parquet")
        rewrite(corpus / f"{number}.parquet", table.slice(0, 19))
    shards = sorted((dataset(tmp_path, 0) / "data").glob("*.parquet"))
    lost = [key for key in pq.read_table(shards[0]).column("key").to_pylist() if key % 20 < 19]
    for shard in shards if damage == "all gone" else shards[:1]:
        if damage == "cut":
            shard.write_bytes(shard.read_bytes()[:100])
        else:
            shard.unlink()
    ending = embed(nightly(match), 1)
    assert ending.code == ExitCode.DONE
    assert ending.summary["reused"] == (0 if damage == "all gone" else 57 - len(lost))
    assert_like_a_full_run(nightly(match), tmp_path, 1)


def test_a_shard_with_transient_rejects_is_not_copied(nightly: Job, tmp_path: Path) -> None:
    embed(nightly(), 0)
    base = dataset(tmp_path, 0)
    manifest = pq.read_table(base / "manifest.parquet")
    transient = pa.array([1, *[0] * (manifest.num_rows - 1)], pa.int64())
    place = manifest.column_names.index("transient")
    field = manifest.schema.field("transient")
    pq.write_table(manifest.set_column(place, field, transient), base / "manifest.parquet")
    assert counts(embed(nightly(), 1)) == {"copied": 50, "reused": 10, "embedded": 0, "rejects": 0}


@pytest.mark.full
@only_on_ray
@pytest.mark.timeout(120)
def test_a_cluster_too_small_is_refused_before_texts_are_looked_up(nightly: Job, tmp_path: Path) -> None:
    """The texts would have to be looked up, for no shard fits larger splits; and the reader fits no node."""
    embed(nightly("dataset"), 0)
    output = {"path": str(tmp_path / "series/{run_date}"), "rows_per_shard": 20}
    with pytest.raises(ResourceError, match="do not fit at the same time"):
        embed(nightly("dataset", output=output, compute={"cpus_per_reader": 3}), 1)
