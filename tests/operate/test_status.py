"""Checks the state of a dataset, derived from its files alone, against figures computed by hand."""

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline import cli, telemetry
from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ExitCode
from pipeline.operate import status
from pipeline.operate.status import Standing, standing
from tests import records
from tests.conftest import write_config

Job = Callable[..., dict[str, Any]]
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/status.schema.json").read_text())
START = datetime.datetime(2026, 11, 25, 12, tzinfo=datetime.UTC)


def at(minutes: float) -> datetime.datetime:
    return START + datetime.timedelta(minutes=minutes)


def touched(dataset: Dataset, moment: datetime.datetime) -> None:
    """Sets the times of all files, as if nothing in the dataset had changed since."""
    for path in Path(dataset.layout.root).rglob("*"):
        os.utime(path, (moment.timestamp(), moment.timestamp()))


def half_done(job: Job, **last: Any) -> Dataset:
    """Makes three of six splits: one by an older attempt, two by the newest, 2 and 4 minutes after noon."""
    dataset, made = records.planned(job())
    ids = made.split_ids.to_pylist()
    records.attempted(dataset, "a0", code=4, reason="stopped", ended="2026-11-25T11:00:00+00:00")
    records.attempted(dataset, "a1", **last)
    older = records.record(ids[0], rows=10, tokens=100, written_at=at(-90).timestamp())
    reasons = [{"reason": "null", "rows": 2}, {"reason": "blank", "rows": 1}]
    newer = [
        records.record(
            split, rows=7, rejects=3, tokens=50, reasons=reasons, attempt="a1",
            written_at=at(minutes).timestamp(),
        )
        for split, minutes in zip(ids[1:3], (2, 4), strict=True)
    ]  # fmt: skip
    records.write(dataset, older)
    records.write(dataset, *newer, attempt="a1")
    touched(dataset, at(4))
    return dataset


def test_nobody_has_begun(job: Job) -> None:
    dataset = Dataset.of(parse_config(job()))
    found = standing(dataset)
    assert (found.state, found.splits, found.figures, found.attempts) == ("not started", 0, None, ())


def test_a_plan_without_an_attempt(job: Job) -> None:
    dataset, _ = records.planned(job())
    found = standing(dataset)
    assert (found.state, found.splits, found.done, found.pending) == ("planned", 6, 0, 6)
    assert (found.rate, found.eta_seconds, found.last_shard, found.last_sign) == (None, None, None, None)


def test_a_run_that_goes_on(job: Job) -> None:
    """The run took 4 minutes for 2 splits of 7 rows, so 3 more take 6 minutes."""
    found = standing(half_done(job), at(5))
    assert (found.state, found.done, found.pending) == ("running", 3, 3)
    assert found.figures == {"rows": 24, "rejects": 6, "tokens": 200}
    assert found.reject_reasons == {"null": 4, "blank": 2}
    assert found.rate is not None
    assert (found.rate.rows_per_second, found.rate.splits_per_minute) == (14 / 240, 0.5)
    assert found.eta_seconds == 360
    assert (found.last_shard, found.last_sign, found.silent_seconds) == (at(4), at(4), 60)


def test_only_the_last_minutes_count_for_the_rate(job: Job) -> None:
    """The newest shard is from minute 34, and the only one of the ten minutes before."""
    dataset = half_done(job)
    split = records.planned(job())[1].split_ids[3].as_py()
    late = records.record(split, rows=30, attempt="a1", written_at=at(34).timestamp())
    records.write(dataset, late, attempt="a1-late")
    touched(dataset, at(34))
    found = standing(dataset, at(35))
    assert found.rate is not None
    assert (found.rate.seconds, found.rate.splits, found.rate.rows) == (600, 1, 30)
    assert found.eta_seconds == 1200


def test_a_writer_whose_clock_is_behind_has_no_rate(job: Job) -> None:
    """The shards are older than the attempt that made them."""
    dataset, made = records.planned(job())
    records.attempted(dataset, "a1")
    early = records.record(made.split_ids[0].as_py(), rows=10, attempt="a1", written_at=at(-1).timestamp())
    records.write(dataset, early, attempt="a1")
    touched(dataset, at(1))
    found = standing(dataset, at(2))
    assert (found.state, found.done, found.rate, found.eta_seconds) == ("running", 1, None, None)


def test_silence_is_told_and_nothing_more(job: Job) -> None:
    dataset = half_done(job)
    assert standing(dataset, at(9)).state == "running"
    found = standing(dataset, at(9.1))
    assert (found.state, found.eta_seconds, found.last_sign) == ("silent", None, at(4))


def test_an_attempt_that_said_how_it_ended(job: Job) -> None:
    summary = {"failed_files": {"docs/2.parquet": "is not a complete Parquet file"}}
    dataset = half_done(
        job, code=3, reason="1 file failed", ended="2026-11-25T12:05:00+00:00", summary=summary
    )
    found = standing(dataset, at(5))
    assert (found.state, found.eta_seconds) == ("stopped", None)
    assert found.failed_files == {"docs/2.parquet": "is not a complete Parquet file"}
    assert "summary" not in found.fields()["attempts"][-1]


def test_replicas_that_wait_for_nodes(job: Job) -> None:
    waiting = {"placed": 3, "wanted": 8, "at": "2026-11-25T12:04:00+00:00"}
    dataset = half_done(job, replicas=waiting)
    fields = standing(dataset, at(5)).fields()
    assert fields["attempts"][-1]["replicas"] == waiting
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(fields)))
    assert standing(dataset, at(5)).replicas == waiting
    records.attempted(dataset, "a1", replicas=waiting | {"placed": 8})
    assert standing(dataset, at(5)).replicas is None


def test_a_bad_file_among_others_of_its_split_is_a_failed_one(job: Job) -> None:
    dataset, made = records.planned(job())
    pieces = [records.piece("0.parquet", 10), records.piece("1.parquet", 0, error="is damaged")]
    records.write(dataset, records.record(made.split_ids[0].as_py(), pieces=pieces))
    assert standing(dataset).failed_files == {"docs/1.parquet": "is damaged"}


def test_a_complete_dataset_costs_its_manifest_and_no_ledger(job: Job) -> None:
    dataset, made = records.planned(job())
    ids = made.split_ids.to_pylist()
    records.complete(dataset, *(records.record(split, rows=10) for split in ids))
    records.attempted(dataset, code=0, reason="complete", ended="2026-11-25T12:05:00+00:00")
    seen: list[tuple[str, str]] = []
    telemetry.observers.append(lambda operation, path: seen.append((operation, path)))
    try:
        found = standing(dataset, at(60))
    finally:
        telemetry.observers.pop()
    assert (found.state, found.pending, found.eta_seconds) == ("complete", 0, None)
    assert found.figures == {"rows": 60, "rejects": 0, "tokens": 0}
    assert not any(path.endswith(("00000.parquet", f"part-{ids[0]}.parquet")) for _, path in seen)
    assert len(seen) < 12


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["status", *arguments]) == ExitCode.DONE
    return capsys.readouterr().out


def test_status_of_a_config_of_its_folder_and_as_json(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "job.yaml", job())
    assert shown(capsys, str(path)) == f"{tmp_path}/out: not started\n"
    dataset = half_done(job)
    text = shown(capsys, str(path))
    assert text.splitlines()[0].startswith(f"{tmp_path}/out: no sign of life since 2026-11-25 12:04:00 UTC, ")
    assert "3 of 6 done (50.0 %), 3 pending" in text
    assert "rejects  6: null 4, blank 2" in text
    assert "0.1 rows/s, 0.5 splits/min over the 4 min" in text
    assert "a1, on here, process 7, since 2026-11-25 12:00:00 UTC\n" in text
    assert (
        "a0, on here, process 7, since 2026-11-25 12:00:00 UTC; ended 2026-11-25 11:00:00 UTC, exit 4" in text
    )
    by_config, by_folder = (
        json.loads(shown(capsys, where, "--json")) for where in (str(path), f"{tmp_path}/out")
    )
    for told in (by_config, by_folder):
        told.pop("silent_seconds")
    assert by_config == by_folder
    assert (by_folder["state"], by_folder["last_sign"]) == ("silent", "2026-11-25T12:04:00+00:00")
    assert set(Standing.fields(standing(dataset))) == {*by_folder, "silent_seconds"}


def test_a_folder_that_is_no_dataset_and_what_a_dataset_has_no_use_for(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", str(tmp_path)]) == ExitCode.CONFIG
    assert "no dataset here; name the folder that has dataset.json" in capsys.readouterr().err
    half_done(job)
    assert cli.main(["status", f"{tmp_path}/out", "--set", "model.max_tokens=3"]) == ExitCode.CONFIG
    assert "do not apply to a dataset" in capsys.readouterr().err


def made_complete(job: Job) -> Dataset:
    dataset, made = records.planned(job())
    records.complete(dataset, *(records.record(split, rows=10) for split in made.split_ids.to_pylist()))
    records.attempted(dataset, code=0, reason="complete", ended="2026-11-25T12:05:00+00:00")
    return dataset


def ended(code: int) -> Callable[[Job], Dataset]:
    return lambda job: half_done(job, code=code, reason="so", ended="2026-11-25T12:05:00+00:00")


@pytest.mark.parametrize(
    ("make", "minutes", "state", "code"),
    [
        (lambda job: Dataset.of(parse_config(job())), 5, "not started", 4),
        (lambda job: records.planned(job())[0], 5, "planned", 4),
        (half_done, 5, "running", 7),
        (half_done, 60, "silent", 4),
        (ended(4), 60, "stopped", 4),
        (ended(3), 60, "stopped", 3),
        (ended(2), 60, "stopped", 2),
        (ended(0), 60, "stopped", 4),  # somebody removed what made it complete
        (ended(7), 60, "stopped", 4),  # no run ends so
        (ended(99), 60, "stopped", 4),
        (made_complete, 60, "complete", 0),
    ],
)
def test_each_state_has_its_exit_code_and_fits_the_schema(
    job: Job, make: Callable[[Job], Dataset], minutes: float, state: str, code: int
) -> None:
    found = standing(make(job), at(minutes))
    assert (found.state, found.code) == (state, code)
    assert found.fields()["format_version"] == SCHEMA["properties"]["format_version"]["const"]
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    validator.validate(json.loads(json.dumps(found.fields())))


def test_the_schema_knows_each_state_and_each_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"])
    assert SCHEMA["properties"]["format_version"]["const"] == status.VERSION


def test_a_sensor_gets_the_state_as_exit_code_and_last_line(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "job.yaml", job())
    assert cli.main(["status", str(path), "--exit-code"]) == ExitCode.RETRYABLE
    assert capsys.readouterr().err == "exit 4: not started\n"
    made_complete(job)
    assert cli.main(["status", str(path), "--exit-code", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["state"] == "complete"


def test_names_from_a_dataset_do_not_steer_the_terminal(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = half_done(job, host="\x1b[31mred", code=1, reason="[bold]\x1b[2J", ended=START.isoformat())
    assert "\x1b" not in shown(capsys, dataset.layout.root)
    assert "[bold]" in shown(capsys, f"{tmp_path}/out")
