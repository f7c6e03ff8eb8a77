"""Tests of a series on a real S3 server: compare-and-swap among runs, a rollback, a prune."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import cli, storage, telemetry
from pipeline.config.location import Options
from pipeline.errors import DeniedError, ExitCode, SeriesError
from pipeline.nightly import Series
from tests.conftest import write_config
from tests.nightly.test_series import (
    CONFIG,
    DAYS,
    LATER,
    advance,
    everything,
    fates,
    make,
    names_in,
    nights,
    observed,
    removals,
)
from tests.s3.proxy import fault_proxy
from tests.s3.server import READER, READER_SECRET


def test_an_older_run_never_moves_it_back(bucket: str) -> None:
    series = nights(f"{bucket}/series", [DAYS[0], DAYS[2]])
    make(f"{bucket}/series", DAYS[1])
    assert not advance(series, DAYS[1])
    assert not advance(series, DAYS[2])
    latest = series.latest()
    assert latest and (latest.dataset, latest.previous) == (DAYS[2], DAYS[0])


def test_of_two_that_read_the_same_one_writes_first_and_the_other_looks_again(bucket: str) -> None:
    """The newer run ends after the older one has read LATEST.json and before it writes."""
    series = nights(f"{bucket}/series", [DAYS[0]])
    make(f"{bucket}/series", DAYS[1])
    make(f"{bucket}/series", DAYS[2])
    rivals: list[bool] = []

    def rival(operation: str, path: str) -> None:
        if (operation, path) == ("put", series.layout.latest) and not rivals:
            rivals.append(True)
            rivals[0] = advance(Series(f"{bucket}/series"), DAYS[2])

    with observed(rival):
        assert not advance(series, DAYS[1])
    assert rivals == [True]
    latest = series.latest()
    assert latest and latest.dataset == DAYS[2]


@pytest.mark.parametrize("faults", [{}, {"lose": 0.2, "error": 0.1}])
def test_ten_runs_that_end_at_the_same_time_end_at_the_newest(
    bucket: str, s3_server: str, faults: dict[str, float]
) -> None:
    names = [f"2026-10-{day:02}" for day in range(1, 11)]
    for name in names:
        make(f"{bucket}/series", name, shards=1)
    random.Random(1).shuffle(names)
    with fault_proxy(s3_server, seed=3) as proxy:
        proxy.faults = faults
        options = Options(endpoint_url=proxy.url)
        with ThreadPoolExecutor(10) as pool:
            moved = list(pool.map(lambda name: advance(Series(f"{bucket}/series", options), name), names))
    latest = Series(f"{bucket}/series").latest()
    assert latest and latest.dataset == "2026-10-10"
    assert moved[names.index("2026-10-10")]


def test_a_rollback_holds_until_it_is_unpinned(bucket: str) -> None:
    series = nights(f"{bucket}/series", DAYS[:3])
    back = series.rollback()
    assert (back.dataset, back.pinned, back.previous) == (DAYS[1], True, DAYS[0])
    make(f"{bucket}/series", DAYS[3])
    assert not advance(series, DAYS[3])
    assert series.latest() == back
    on = series.unpin()
    assert on == series.latest()
    assert (on.dataset, on.pinned, on.previous) == (DAYS[3], False, DAYS[1])


DAMAGES: dict[str, Callable[[storage.Storage, str], None]] = {
    "part-s1.parquet is missing": lambda store, root: store.remove(f"{root}/data/part-s1.parquet"),
    "part-x.parquet is foreign": lambda store, root: store.put(f"{root}/data/part-x.parquet", b"1"),
    "part-s1.parquet has 1 bytes": lambda store, root: store.put(f"{root}/data/part-s1.parquet", b"1"),
    "its manifest can't be read": lambda store, root: store.remove(f"{root}/manifest.parquet"),
    "is not complete": lambda store, root: store.remove(f"{root}/data/_SUCCESS"),
    "is not a dataset of ours": lambda store, root: store.remove(f"{root}/dataset.json"),
}


@pytest.mark.parametrize("told", DAMAGES)
def test_a_rollback_to_what_is_not_whole_is_refused(bucket: str, told: str) -> None:
    series = nights(f"{bucket}/series", DAYS[:2])
    DAMAGES[told](series.storage, f"{bucket}/series/{DAYS[0]}")
    before = everything(series)
    with pytest.raises(SeriesError, match=told):
        series.rollback(DAYS[0])
    assert everything(series) == before


def test_prune_removes_what_its_dry_run_told_in_its_order(bucket: str) -> None:
    series = nights(f"{bucket}/series", DAYS)
    series.storage.put(f"{bucket}/series/{DAYS[0]}/notes.txt", b"1")
    make(f"{bucket}/elsewhere", DAYS[0])
    make(f"{bucket}/series-of-others", DAYS[0])
    make(f"{bucket}/series", "2026-11-30", complete=False, base=f"{bucket}/series/{DAYS[1]}")
    before = everything(Series(bucket))
    told = series.prune(keep=2, dry_run=True, now=LATER)
    assert everything(Series(bucket)) == before
    assert [fate.name for fate in told if fate.removed] == [DAYS[0], *DAYS[2:4]]
    assert told[0].left == ["notes.txt"]
    assert fates(told)[DAYS[1]] == "kept: 2026-11-30, unfinished, takes vectors from it"
    with removals() as paths:
        assert series.prune(keep=2, now=LATER) == told
    for name in (DAYS[0], *DAYS[2:4]):
        layout = series.layout.dataset(name)
        own = [path for path in paths if path.startswith(layout.root)]
        assert (own[0], own[-2:]) == (layout.success, [layout.plan, layout.identity])
    gone = {f"{bucket}/{name}" for name in before} - {
        f"{bucket}/{name}" for name in everything(Series(bucket))
    }
    assert gone == set(paths)
    assert names_in(series) == [DAYS[1], *DAYS[4:], "2026-11-30"]


def test_what_has_just_been_made_stays(bucket: str) -> None:
    series = nights(f"{bucket}/series", DAYS[:4])
    told = fates(series.prune(keep=1))
    assert [told[name] for name in DAYS[:2]] == ["kept: changed within a day"] * 2


@pytest.mark.parametrize("limit", [0, 1, 4, 8, 9])
def test_killed_anywhere_the_next_call_goes_on(bucket: str, limit: int) -> None:
    series = nights(f"{bucket}/series", DAYS[:3])
    with removals(limit), pytest.raises(KeyboardInterrupt):
        series.prune(keep=2, now=LATER)
    assert names_in(series) == DAYS[:3]
    assert series.dataset(DAYS[0]).complete() == (limit == 0)
    series.prune(keep=2, now=LATER)
    assert names_in(series) == DAYS[1:3]
    assert series.storage.list_recursive(f"{bucket}/series/{DAYS[0]}") == {}


def test_uploads_that_a_killed_run_left_go_with_its_dataset(bucket: str) -> None:
    series = nights(f"{bucket}/series", DAYS[:3])
    for name in (DAYS[0], DAYS[1]):
        key = f"series/{name}/data/part-killed.parquet"
        series.storage.filesystem.call_s3("create_multipart_upload", Bucket=bucket[5:], Key=key)
    series.prune(keep=2, now=LATER)
    assert series.storage.abort_unfinished_uploads(f"{bucket}/series", bool) == 1


def test_who_may_only_read_is_denied_and_changes_nothing(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(nights(f"{bucket}/series", DAYS[:4]))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    storage._connect.cache_clear()
    series = Series(f"{bucket}/series")
    for call in (series.rollback, lambda: series.prune(keep=2, now=LATER)):
        with pytest.raises(DeniedError, match="access denied"):
            call()
    assert everything(series) == before


def test_the_command_line_on_s3(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nights(f"{bucket}/series", DAYS)
    values = CONFIG | {"output": {"path": f"{bucket}/series/{{run_date}}"}}
    written = str(write_config(tmp_path / "nightly.yaml", values))
    assert cli.main(["rollback", written, "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["dataset"] == DAYS[4]
    requests = telemetry.requests["remove"]
    assert cli.main(["prune", written, "--dry-run", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["datasets"][0]["reason"] == "changed within a day"
    assert telemetry.requests["remove"] == requests
    with pytest.raises(SystemExit, match="2"):
        cli.main(["rollback", written, "--unpin", "--to", DAYS[0]])


def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    with pytest.raises(SeriesError, match="LATEST.json: does not exist"):
        Series("s3://nowhere/series").rollback()
    with pytest.raises(SeriesError, match="holds no dataset of ours"):
        Series("s3://nowhere/series").prune()
