"""Tests the main job: every row that goes in comes out once, and each kind of failure is reported."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli, storage, telemetry
from pipeline.config.load import parse_config
from pipeline.dataset.ending import RunResult
from pipeline.driver import run
from pipeline.errors import ExitCode, IncompleteError, ModelError, OtherDatasetError
from pipeline.source import survey
from tests.conftest import make_checkpoint, only_on_ray, read_dataset, texts, write_config
from tests.model.test_encoder import reference

Job = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("flow")


def embed(values: dict[str, Any]) -> RunResult:
    return run.run(parse_config(values), quiet=True)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Collects the paths that the driver opens."""
    paths: list[str] = []
    telemetry.observers.append(lambda operation, path: paths.append(path) if operation == "open" else None)
    yield paths
    telemetry.observers.pop()


def rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


@only_on_ray
def test_the_job_from_end_to_end(
    job: Job, tmp_path: Path, tiny: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = embed(job())
    assert ending.code == ExitCode.DONE
    assert (ending.summary["rows"], ending.summary["rejects"], ending.summary["shards"]) == (60, 0, 6)

    table = read_dataset(tmp_path / "out")
    assert table.column("key").to_pylist() == list(range(60))
    assert table.column("topic").to_pylist() == [f"t{row % 3}" for row in range(60)]
    vectors = np.stack(table.column("embedding").to_numpy())
    np.testing.assert_allclose(vectors, reference(tiny, texts(60), 512), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (tmp_path / "out/data/_SUCCESS").read_bytes() == b""
    manifest = pq.read_table(tmp_path / "out/manifest.parquet")
    assert sum(manifest.column("rows").to_pylist()) == 60

    # On the second run nothing is left to do: no source is opened, no file is touched.
    opened.clear()
    monkeypatch.setattr(survey, "survey", None)  # other processes open files, unseen by `opened`
    before = state_of(tmp_path / "out/data") | state_of(tmp_path / "out")
    again = embed(job())
    assert (again.code, again.summary) == (ExitCode.DONE, ending.summary)
    assert opened == []
    assert state_of(tmp_path / "out/data") | state_of(tmp_path / "out") == before


@pytest.mark.full
@only_on_ray
def test_a_resume_does_what_is_missing_and_no_more(
    job: Job, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(job())
    data = tmp_path / "out/data"
    (data / "_SUCCESS").unlink()
    victims = sorted(data.glob("*.parquet"))[:2]
    for victim in victims:
        victim.unlink()
    kept = state_of(data)
    for ledger in (tmp_path / "out/ledger").glob("*.parquet"):
        ledger.unlink()  # then the records come from the footers
    monkeypatch.setattr(survey, "survey", None)
    opened.clear()
    ending = embed(job(report={"texts": False}))  # texts would be read from the sources
    assert ending.code == ExitCode.DONE
    assert ending.summary["run"]["splits"] == 2
    assert kept.items() <= state_of(data).items()
    assert read_dataset(tmp_path / "out").column("key").to_pylist() == list(range(60))
    assert not [path for path in opened if "/corpus/" in path]


def test_two_sources_of_two_formats(job: Job, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes("first line\r\n\nthird ä line".encode())
    values = job(source=job()["source"] | {"lines": {"path": f"{tmp_path}/lines.txt"}})
    ending = embed(values)
    assert (ending.code, ending.summary["rows"], ending.summary["rejects"]) == (ExitCode.DONE, 62, 1)
    rows = {row["id"]: row for row in read_dataset(tmp_path / "out").to_pylist()}
    assert len(rows) == 62
    assert rows["docs/1.parquet#0"]["key"] == 20
    assert rows["lines/lines.txt#0"]["key"] is None
    assert rows["lines/lines.txt#13"]["n_tokens"] > 2


def test_null_and_blank_texts_are_rejected_with_their_place(job: Job, tmp_path: Path, corpus: Path) -> None:
    table = pq.read_table(corpus / "1.parquet")
    changed = table.column("text").to_pylist()
    changed[3], changed[14] = None, " \n"
    rewrite(corpus / "1.parquet", table.set_column(1, "text", pa.array(changed)))
    ending = embed(job())
    assert (ending.code, ending.summary["rows"], ending.summary["rejects"]) == (ExitCode.DONE, 58, 2)
    rejects = pq.read_table(tmp_path / "out/rejects").sort_by("source_row").to_pylist()
    assert [(row["source_file"], row["source_row"], row["reason"]) for row in rejects] == [
        ("docs/1.parquet", 3, "null"),
        ("docs/1.parquet", 14, "blank"),
    ]


def test_too_many_rejects_are_not_done_until_allowed(job: Job, tmp_path: Path, corpus: Path) -> None:
    table = pq.read_table(corpus / "1.parquet")
    rewrite(corpus / "1.parquet", table.set_column(1, "text", pa.nulls(20, pa.string())))
    ending = embed(job(quality={"max_reject_fraction": 0.1}))
    assert ending.code == ExitCode.INCOMPLETE
    assert "20 of 60 rows were rejected" in ending.reason
    assert not (tmp_path / "out/data/_SUCCESS").exists()
    allowed = embed(job(quality={"max_reject_fraction": 0.4}))
    assert (allowed.code, allowed.summary["run"]["splits"]) == (ExitCode.DONE, 0)


def test_a_truncated_file_fails_alone(job: Job, tmp_path: Path, corpus: Path) -> None:
    (corpus / "1.parquet").write_bytes((corpus / "1.parquet").read_bytes()[:-200])
    ending = embed(job())
    assert ending.code == ExitCode.INCOMPLETE
    assert list(ending.summary["failed_files"]) == ["docs/1.parquet"]
    assert read_dataset(tmp_path / "out").num_rows == 40
    for path in ("data/_SUCCESS", "manifest.parquet", "summary.json"):
        assert not (tmp_path / "out" / path).exists()
    assert embed(job(quality={"allow_failed_files": True})).code == ExitCode.DONE


def test_a_file_damaged_within_fails_alone(job: Job, tmp_path: Path, corpus: Path) -> None:
    path = corpus / "1.parquet"
    pq.write_table(
        pq.read_table(path), path, compression="none", use_dictionary=False, write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    place = data.index(b"document number 25")
    data[place : place + 8] = b"DOCUMENT"
    path.write_bytes(data)
    ending = embed(job())
    assert ending.code == ExitCode.INCOMPLETE
    assert "can't be read" in ending.summary["failed_files"]["docs/1.parquet"]
    assert set(read_dataset(tmp_path / "out").column("key").to_pylist()) >= {*range(20), *range(40, 60)}


def test_another_config_on_the_same_output_is_refused(job: Job, tmp_path: Path) -> None:
    embed(job())
    with pytest.raises(OtherDatasetError, match=r"model\.weights: .*there, .*here"):
        embed(job(model={"name": str(make_checkpoint(tmp_path / "other", seed=1))}))
    source = job()["source"]
    with pytest.raises(OtherDatasetError, match=r'source\.docs\.text_column: "text" there, "topic" here'):
        embed(job(source={"docs": source["docs"] | {"text_column": "topic"}}))
    with pytest.raises(OtherDatasetError) as raised:
        embed(job(model={"max_tokens": 64, "normalize": False}))
    assert "model.max_tokens: 512 there, 64 here" in str(raised.value)
    assert "model.normalize: true there, false here" in str(raised.value)
    assert raised.value.exit_code == ExitCode.OTHER_DATASET


def test_operational_changes_may_resume(job: Job, tmp_path: Path) -> None:
    embed(job())
    (tmp_path / "out/data/_SUCCESS").unlink()
    assert embed(job(compute={"batch_tokens": 64})).code == ExitCode.DONE


def test_a_source_rewritten_between_crash_and_resume_is_named_not_mixed(
    job: Job, tmp_path: Path, corpus: Path
) -> None:
    embed(job())
    data = tmp_path / "out/data"
    (data / "_SUCCESS").unlink()
    for path in data.glob("*.parquet"):
        if pq.read_table(path).column("source_row")[0].as_py() >= 10:
            path.unlink()
    table = pq.read_table(corpus / "1.parquet")
    rewrite(corpus / "1.parquet", table.set_column(1, "text", pa.array(["new text"] * 20)))
    ending = embed(job())
    assert ending.code == ExitCode.INCOMPLETE
    assert list(ending.summary["failed_files"]) == ["docs/1.parquet"]
    assert "changed since it was planned" in ending.summary["failed_files"]["docs/1.parquet"]
    keys = read_dataset(tmp_path / "out").column("key").to_pylist()
    assert keys == [*range(30), *range(40, 60)]


def test_complete_but_the_source_has_moved_on(job: Job, corpus: Path) -> None:
    embed(job())
    rewrite(corpus / "3.parquet", pq.read_table(corpus / "1.parquet"))
    ending = embed(job())
    assert ending.code == ExitCode.SOURCE_MOVED
    assert "1 files differ, docs/3.parquet among them" in ending.reason


def test_differing_carried_columns_become_one_schema(job: Job, tmp_path: Path, corpus: Path) -> None:
    for number, kind in enumerate([pa.int32(), pa.int64(), None]):
        columns = {"key": pa.array([number], pa.int64()), "text": [f"text {number}"]}
        topic = {} if kind is None else {"topic": pa.array([number + 2**20], kind)}
        rewrite(corpus / f"{number}.parquet", pa.table(columns | topic))
    assert embed(job()).code == ExitCode.DONE
    shards = sorted((tmp_path / "out/data").glob("*.parquet"))
    assert len({pq.read_schema(path).to_string(show_schema_metadata=False) for path in shards}) == 1
    frame = pl.read_parquet(f"{tmp_path}/out/data/*.parquet").sort("key")
    assert frame.schema["topic"] == pl.Int64
    assert frame["topic"].to_list() == [2**20, 2**20 + 1, None]
    assert read_dataset(tmp_path / "out").schema.field("topic").type == pa.int64()


def test_an_empty_source_file_is_accounted_for(job: Job, tmp_path: Path, corpus: Path) -> None:
    rewrite(corpus / "1.parquet", pq.read_table(corpus / "1.parquet").slice(0, 0))
    ending = embed(job())
    assert (ending.code, ending.summary["files"], ending.summary["rows"]) == (ExitCode.DONE, 3, 40)


def test_a_foreign_shard_stops_the_commit(job: Job, tmp_path: Path) -> None:
    embed(job())
    data = tmp_path / "out/data"
    (data / "_SUCCESS").unlink()
    shard = next(data.glob("*.parquet"))
    (data / "part-feed.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(OtherDatasetError, match="shards that the plan does not know.*feed"):
        embed(job())
    assert not (data / "_SUCCESS").exists()


def test_a_shard_with_a_wrong_count_stops_the_commit(job: Job, tmp_path: Path) -> None:
    embed(job())
    data = tmp_path / "out/data"
    (data / "_SUCCESS").unlink()
    for ledger in (tmp_path / "out/ledger").glob("*.parquet"):
        table = pq.read_table(ledger)
        pieces = table.column("pieces").to_pylist()
        pieces[0][0]["rows"] -= 1
        pq.write_table(
            table.set_column(table.column_names.index("pieces"), table.schema.field("pieces"),
                             pa.array(pieces, table.schema.field("pieces").type)), ledger
        )  # fmt: skip
    with pytest.raises(IncompleteError, match="rows are unaccounted for.*10 rows planned|20 rows planned"):
        embed(job())
    assert not (data / "_SUCCESS").exists()


def test_a_model_that_cannot_be_used_leaves_no_dataset(job: Job, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError):
        embed(job(model={"name": str(folder)}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_output_without_conditional_replacement_is_refused_before_anything(
    job: Job,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(storage.KINDS, "memory", storage.Storage)  # a storage of no special kind
    storage._connect.cache_clear()
    path = write_config(tmp_path / "job.yaml", job(output={"path": f"memory://{tmp_path}/out"}))
    try:
        assert cli.main([command, str(path)]) == ExitCode.CONFIG
        last = capsys.readouterr().err.splitlines()[-1]
        assert "out: memory:// can be read, but not written: it has no conditional replacement" in last
        assert not storage.connect("memory://").filesystem.find(f"{tmp_path}")
    finally:
        storage._connect.cache_clear()


@only_on_ray
@pytest.mark.full
def test_many_splits_to_a_block(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a limit splits share blocks; it is lowered here, because reaching it takes minutes."""
    monkeypatch.setattr("pipeline.embed.on_ray.feed.SINGLE_BLOCKS", 1)
    ending = embed(job(output={"rows_per_shard": 3}))
    assert (ending.code, ending.summary["shards"]) == (ExitCode.DONE, 21)
    assert read_dataset(tmp_path / "out").column("key").to_pylist() == list(range(60))
