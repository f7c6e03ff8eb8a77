"""Tests that complete datasets stay, those being removed are never committed, foreign shards are refused."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.config.load import parse_config
from pipeline.config.sections import Config
from pipeline.dataset.claim import BEING_REMOVED
from pipeline.dataset.commit import CommitRequest, commit
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import Failure, ShardRecord, read_records
from pipeline.driver import run
from pipeline.embed.job import Job
from pipeline.embed.read import read_scan
from pipeline.errors import DeniedError, ExitCode, OtherDatasetError, StoppedError
from pipeline.model import checkpoint
from pipeline.nightly import Series
from pipeline.plan.plan import Plan
from pipeline.verify import verify
from tests.conftest import observed
from tests.model_check.protocol import encoded
from tests.splits import scan_row, written

JobValues = Callable[..., dict[str, Any]]
FAR = datetime.now(UTC) + timedelta(days=30)


@dataclass
class Night:
    """A job without Ray, whose splits can be processed one by one, with vectors that no model made."""

    config: Config
    dataset: Dataset
    plan: Plan
    job: Job

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Night":
        parsed = parse_config(values)
        model = checkpoint.resolve(parsed.model.name)
        identity, dataset = Identity.of(parsed, model), Dataset.of(parsed)
        frozen = run.frozen_plan(parsed, dataset, identity, model)
        return cls(parsed, dataset, frozen, run._job(parsed, model, identity, frozen, None))

    def do(self, *numbers: int) -> None:
        """Writes the shards of these splits; of all splits if none is named."""
        for number, split in enumerate(self.plan.splits()):
            if not numbers or number in numbers:
                for read in read_scan(scan_row([split]), self.job):
                    done = written(encoded(read, 16), self.job)
                    assert isinstance(done, ShardRecord), done

    def commit(self, *failures: Failure, allow: bool = False) -> RunResult:
        quality = self.config.quality.model_copy(update={"allow_failed_files": allow})
        return commit(CommitRequest(Dataset(self.dataset.layout.root), self.plan, failures, quality, {}))

    def failure(self, number: int) -> Failure:
        split_id, pieces = list(self.plan.splits())[number]
        return Failure(
            split_id, tuple(piece.source_file for piece in pieces), "read", 3, "it kills its process"
        )


def test_a_rival_that_is_late_changes_nothing(job: JobValues, tmp_path: Path) -> None:
    """A commits without a failed split; B finishes it between A's manifest and summary, and commits too."""
    night = Night.of(job())
    night.do(*range(5))
    endings, begun = {}, []

    def rival() -> None:
        night.do(5)
        endings["B"] = night.commit(allow=True)

    def observe(operation: str, path: str) -> None:
        if operation == "put" and path.endswith("summary.json") and not begun:
            begun.append(path)
            thread = threading.Thread(target=rival)
            thread.start()
            thread.join()

    with observed(observe):
        endings["A"] = night.commit(night.failure(5), allow=True)
    assert {name: ending.code for name, ending in endings.items()} == {"A": ExitCode.DONE, "B": ExitCode.DONE}
    assert endings["A"].summary == endings["B"].summary
    root = tmp_path / "out"
    assert {path.name for path in (root / "data").iterdir()} == {
        "_SUCCESS", *(f"part-{split}.parquet" for split in night.plan.split_ids.to_pylist())
    }  # fmt: skip
    assert (endings["A"].summary["rows"], list(endings["A"].summary["failed_files"])) == (
        50,
        ["docs/2.parquet"],
    )
    assert [str(finding) for finding in verify.verify(str(root)).findings] == []


def test_a_manifest_that_fits_is_adopted_and_one_that_does_not_is_made_anew(
    job: JobValues, tmp_path: Path
) -> None:
    night, root = Night.of(job()), tmp_path / "out"
    night.do()
    night.commit()
    before = {name: (root / name).stat().st_ino for name in ("manifest.parquet", "summary.json")}
    (root / "data/_SUCCESS").unlink()
    assert night.commit().code == ExitCode.DONE
    assert before == {name: (root / name).stat().st_ino for name in before}
    (root / "data/_SUCCESS").unlink()
    right = (root / "manifest.parquet").read_bytes()
    manifest = read_records(right, "manifest")
    at = manifest.column_names.index("tokens")
    wrong = manifest.set_column(at, manifest.field(at), pa.array([1] * 6, pa.int64()))
    pq.write_table(wrong, root / "manifest.parquet")
    assert night.commit().code == ExitCode.DONE
    assert (root / "manifest.parquet").read_bytes() == right


def test_a_split_that_failed_leaves_no_place_for_a_late_worker(job: JobValues, tmp_path: Path) -> None:
    night = Night.of(job())
    night.do(*range(5))
    ending = night.commit(night.failure(5), allow=True)
    assert (ending.code, ending.summary["rows"]) == (ExitCode.DONE, 50)
    files = {path: path.stat().st_ino for path in tmp_path.rglob("out/**/*")}
    night.do(5)
    assert files == {path: path.stat().st_ino for path in tmp_path.rglob("out/**/*")}
    assert [str(finding) for finding in verify.verify(str(tmp_path / "out")).findings] == []


# A dataset that is being removed.


def unfinished_among_nights(job: JobValues, tmp_path: Path) -> tuple[Night, Series]:
    """Makes a dataset with all shards, whose driver was killed, and two later ones that are complete."""
    names = ("2026-11-21", "2026-11-22", "2026-11-23")
    nights = [Night.of(job(output={"path": str(tmp_path / "series" / name)})) for name in names]
    for night in nights:
        night.do()
    for night in nights[1:]:
        night.commit()
    return nights[0], Series(str(tmp_path / "series"))


@pytest.mark.parametrize("moment", ["manifest.parquet", "summary.json", "data/_SUCCESS"])
def test_a_prune_beside_a_resume_leaves_nothing_complete(job: JobValues, tmp_path: Path, moment: str) -> None:
    night, series = unfinished_among_nights(job, tmp_path)
    claim, listed = night.dataset.held(night.plan.dataset_digest), night.dataset.shards()
    begun: list[str] = []

    def prune(operation: str, path: str) -> None:
        if operation == "put" and path == f"{night.dataset.layout.root}/{moment}" and not begun:
            begun.append(path)
            series.prune(keep=1, now=FAR)

    quality = night.config.quality
    with observed(prune), pytest.raises(StoppedError, match="was removed while a run was at work"):
        commit(CommitRequest(night.dataset, night.plan, [], quality, {}, shards=listed, claim=claim))
    assert begun
    assert not night.dataset.complete()


def test_a_listing_of_before_a_removal_is_not_committed(job: JobValues, tmp_path: Path) -> None:
    """The dataset is removed, and claimed again by the same config, before the commit begins."""
    night, series = unfinished_among_nights(job, tmp_path)
    claim, listed = night.dataset.held(night.plan.dataset_digest), night.dataset.shards()
    series.prune(keep=1, now=FAR)
    Night.of(job(output={"path": night.dataset.layout.root}))
    with pytest.raises(StoppedError, match="was removed and made again"):
        commit(
            CommitRequest(night.dataset, night.plan, [], night.config.quality, {}, shards=listed, claim=claim)
        )
    assert not night.dataset.complete()


def test_what_is_being_removed_is_not_gone_on_with(job: JobValues, tmp_path: Path) -> None:
    night, series = unfinished_among_nights(job, tmp_path)
    before = json.loads(Path(night.dataset.layout.identity).read_text())
    assert night.dataset.begin_removal()
    with pytest.raises(StoppedError, match="is being removed; run again when that has ended"):
        Night.of(job(output={"path": night.dataset.layout.root}))
    with pytest.raises(StoppedError):
        night.commit()
    assert series.dataset("2026-11-21").end_removal()
    assert json.loads(Path(night.dataset.layout.identity).read_text()) == before
    assert night.commit().code == ExitCode.DONE


def test_a_run_that_begins_while_a_prune_looks_is_left_alone(job: JobValues, tmp_path: Path) -> None:
    """Its attempt is recorded after the prune has checked ages, and before it marks the removal."""
    night, series = unfinished_among_nights(job, tmp_path)
    layout = night.dataset.layout
    hour = timedelta(hours=1)
    old = (datetime.now(UTC) - timedelta(days=9)).timestamp()
    for path in Path(layout.root).rglob("*"):
        os.utime(path, (old, old))

    def attempt(operation: str, path: str) -> None:
        if (operation, path) == ("put", layout.identity) and not Path(layout.attempt("late")).exists():
            Path(layout.ledger).mkdir(exist_ok=True)
            Path(layout.attempt("late")).write_text("{}")

    with observed(attempt):
        [fate] = [
            fate for fate in series.prune(keep=1, now=datetime.now(UTC) + hour) if fate.name == "2026-11-21"
        ]
    assert (fate.removed, fate.reason) == (False, "changed within a day")
    assert BEING_REMOVED not in json.loads(Path(layout.identity).read_text())
    assert night.commit().code == ExitCode.DONE


# The dataset that a shard belongs to.


def test_a_shard_with_other_columns_is_not_adopted(job: JobValues, tmp_path: Path) -> None:
    """A worker of an earlier dataset at this path writes late: the same split, another type of `topic`."""
    night = Night.of(job())
    night.do()
    path = sorted((tmp_path / "out/data").iterdir())[0]
    table = pq.read_table(path)
    record = json.loads(table.schema.metadata[schema.RECORD_KEY])
    topic = pa.field("topic", pa.large_string())
    kept = table.set_column(table.column_names.index("topic"), topic, table.column("topic").cast(topic.type))
    for told in (record, {name: value for name, value in record.items() if name != "columns_digest"}):
        metadata = {schema.RECORD_KEY: json.dumps(told)}
        pq.write_table(kept.replace_schema_metadata(metadata), path)
        with pytest.raises(
            OtherDatasetError, match=rf"shards of another columns digest.*{path.name}.*remove them"
        ):
            night.commit()
    assert not night.dataset.complete()


def test_a_shard_of_another_dataset_is_not_adopted(job: JobValues, tmp_path: Path) -> None:
    night = Night.of(job())
    night.do(*range(5))
    late = Night(
        night.config, night.dataset, night.plan, replace(night.job, vector_digest="of another model")
    )
    late.do(5)
    with pytest.raises(OtherDatasetError, match="holds 1 shards of another vector digest than the plan's"):
        night.commit()


def test_shards_of_an_older_version_are_adopted(job: JobValues, tmp_path: Path) -> None:
    night = Night.of(job())
    night.do()
    for path in (tmp_path / "out/data").iterdir():
        table = pq.read_table(path)
        record = json.loads(table.schema.metadata[schema.RECORD_KEY])
        for name in ("dataset_digest", "vector_digest", "columns_digest", "device", "software"):
            del record[name]
        pq.write_table(table.replace_schema_metadata({schema.RECORD_KEY: json.dumps(record)}), path)
    assert night.commit().code == ExitCode.DONE
    assert night.dataset.manifest().column("vector_digest").to_pylist() == [""] * 6


def test_a_worker_does_not_write_where_its_dataset_is_gone(job: JobValues, tmp_path: Path) -> None:
    night = Night.of(job())
    told = replace(night.job, claim="another claim")
    late = Night(night.config, night.dataset, night.plan, told)
    with pytest.raises(AssertionError, match="was removed and made again while a run was at work"):
        late.do(0)
    Path(night.dataset.layout.identity).unlink()
    with pytest.raises(AssertionError, match="was removed while a run was at work"):
        late.do(0)
    assert not (tmp_path / "out/data").exists()


def test_a_shard_tells_whose_it_is_and_what_made_it(job: JobValues) -> None:
    night = Night.of(job())
    night.do(0)
    [record] = night.dataset.records(night.dataset.shards()).to_pylist()
    assert record["dataset_digest"] == night.plan.dataset_digest
    assert record["vector_digest"] == night.job.vector_digest
    assert record["device"] == "cpu"
    assert record["software"].startswith("albert-embed ")
    assert ", torch " in record["software"]


@pytest.mark.parametrize("change", ["a field more", "a field less"])
def test_a_footer_of_another_version_is_read(job: JobValues, tmp_path: Path, change: str) -> None:
    night = Night.of(job())
    night.do(0)
    [info] = night.dataset.shards().values()
    table = pq.read_table(info.path)
    record = json.loads(table.schema.metadata[schema.RECORD_KEY])
    if change == "a field more":
        record["colour"] = "blue"
    else:
        del record["idle_seconds"]
    found = ShardRecord.from_footer({schema.RECORD_KEY: json.dumps(record).encode()}, info)
    assert (found.rows, found.split_id, found.idle_seconds) == (10, record["split_id"], 0)
    del record["rows"]
    with pytest.raises(OtherDatasetError, match=r"record is incomplete \(got no rows\); move it away"):
        ShardRecord.from_footer({schema.RECORD_KEY: json.dumps(record).encode()}, info)


def test_a_manifest_of_an_older_version_has_defaults(job: JobValues) -> None:
    night = Night.of(job())
    night.do()
    night.commit()
    path = Path(night.dataset.layout.manifest)
    pq.write_table(pq.read_table(path).drop_columns(["device", "cache_hits"]), path)
    manifest = night.dataset.manifest()
    assert manifest.column("device").to_pylist() == [""] * 6
    assert manifest.column("cache_hits").to_pylist() == [0] * 6


# Readers follow.


def test_readers_follow_even_when_the_sources_cannot_be_listed(
    job: JobValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver died right after `_SUCCESS`: LATEST.json was not moved, matches were not removed."""
    name = "2026-11-21"
    output = {"path": str(tmp_path / "series" / name), "run_date": name}
    night = Night.of(job(output=output))
    night.do()
    night.commit()
    night.dataset.storage.put(night.dataset.layout.matches_done, b"")

    def refuse(*_: Any) -> None:
        raise DeniedError("access denied", "the source", hint="check the credentials")

    monkeypatch.setattr("pipeline.plan.changes.current_versions", refuse)
    with pytest.raises(DeniedError):
        run.run(night.config, quiet=True)
    latest = Series(str(tmp_path / "series")).latest()
    assert latest
    assert latest.dataset == name
    assert not Path(night.dataset.layout.all_matches).exists()
