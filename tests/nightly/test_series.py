"""Tests that a series only advances, unless a person rolls it back, and that the followed dataset stays."""

import datetime
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline import cli, storage, telemetry
from pipeline.cli.arguments import series_of
from pipeline.config.load import parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import parquet_bytes
from pipeline.errors import ConfigError, ExitCode, PipelineError, SeriesError, StoppedError
from pipeline.nightly import DatasetFacts, Latest, PruneDecision, Series
from pipeline.nightly import series as series_module
from tests.conftest import observed, write_config
from tests.dataset.test_writer import contents, write

DAYS = [f"2026-11-2{day}" for day in range(1, 7)]
LATER = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
"""A time at which nothing that a test has made is young."""
Job = Callable[..., dict[str, Any]]
CONFIG = {"source": {"docs": {"path": "/corpus/*.txt"}}, "output": {"path": "/out"}}


def make(root: str, name: str, shards: int = 2, complete: bool = True, base: str | None = None) -> Dataset:
    """Makes a dataset as a run leaves it, complete or not: real shards, rejects, ledger, manifest."""
    dataset = Dataset(f"{root}/{name}")
    layout, store = dataset.layout, dataset.storage
    identity = Identity({"model.weights": "w"}, {"source.docs.path": name})
    content = json.loads(identity.to_bytes(parse_config(CONFIG))) | ({"base": base} if base else {})
    store.put_if_absent(layout.identity, json.dumps(content).encode())
    dataset.freeze(b"the plan of " + name.encode())
    store.put(layout.attempt("a"), b"{}")
    for number in range(shards):
        what = replace(contents(np.ones((number + 1, 3)), rejected=1 - number % 2), split_id=f"s{number}")
        write(f"{root}/{name}", what)  # type: ignore[arg-type]  # it takes any path
    records = dataset.records(dataset.shards())
    store.put(layout.ledger_file("a", 0), parquet_bytes(records))
    if complete:
        store.put(layout.manifest, parquet_bytes(records))
        store.put(layout.summary, json.dumps({"rows": pc.sum(records.column("rows")).as_py()}).encode())
        store.put_if_absent(layout.success, b"")
    return dataset


def advance(series: Series, name: str) -> bool:
    """Advances a series as a run does at its end."""
    return series.advance(name, datetime.date.fromisoformat(name), DatasetFacts.of(series.dataset(name)))


def nights(root: str, names: list[str]) -> Series:
    """Makes a series of some nightly runs."""
    series = Series(root)
    for name in names:
        make(root, name)
        assert advance(series, name)
    return series


def everything(series: Series) -> dict[str, str]:
    """Returns all files below the folder, with their versions."""
    return {name: info.version for name, info in series.storage.list_recursive(series.layout.root).items()}


def names_in(series: Series) -> list[str]:
    return [member.name for member in series.datasets()]


@contextmanager
def removals(limit: int | None = None) -> Iterator[list[str]]:
    """Collects the paths that are removed, in order; at the one after the limit, the process dies."""
    paths: list[str] = []

    def observe(operation: str, path: str) -> None:
        if operation == "remove":
            if limit is not None and len(paths) >= limit:
                raise KeyboardInterrupt
            paths.append(path)

    with observed(observe):
        yield paths


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "series") if request.param == "file" else f"memory://{tmp_path}/series"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Returns the folder of a series on a file system, where LATEST.json can be replaced."""
    return str(tmp_path / "series")


# Advancing.


def test_readers_find_the_newest_night(folder: str) -> None:
    series = Series(folder)
    assert series.latest() is None
    nights(folder, DAYS[:2])
    content = json.loads(Path(folder, "LATEST.json").read_text())
    identity = json.loads(Path(folder, content["dataset"], "dataset.json").read_text())
    assert content.pop("updated").endswith("+00:00")
    assert content == {
        "format_version": 1, "dataset": DAYS[1], "run_date": DAYS[1], "rows": 3, "pinned": False,
        "dataset_digest": identity["dataset_digest"], "vector_digest": identity["vector_digest"],
        "previous": DAYS[0],
    }  # fmt: skip


def test_an_older_run_never_moves_it_back(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pipeline")
    series = nights(folder, [DAYS[0], DAYS[2]])
    before = everything(series)
    make(folder, DAYS[1])
    assert not advance(series, DAYS[1])
    assert everything(series)["LATEST.json"] == before["LATEST.json"]
    assert caplog.messages == [
        f"LATEST moved was=None now={DAYS[0]} pinned=False",
        f"LATEST moved was={DAYS[0]} now={DAYS[2]} pinned=False",
        f"LATEST kept dataset={DAYS[2]} offered={DAYS[1]} reason=it is newer",
    ]


def test_the_same_again_changes_nothing(folder: str) -> None:
    series = nights(folder, DAYS[:2])
    before = everything(series)
    assert not advance(series, DAYS[1])
    assert everything(series) == before


def test_a_dataset_made_anew_under_its_name_is_followed_as_it_is_now(folder: str) -> None:
    series = nights(folder, DAYS[:2])
    facts = DatasetFacts("another", "vectors", 7)
    assert series.advance(DAYS[1], datetime.date.fromisoformat(DAYS[1]), facts)
    latest = series.latest()
    assert latest and (latest.facts, latest.previous) == (facts, DAYS[0])


def test_many_at_the_same_time_end_at_the_newest(folder: str) -> None:
    names = [f"2026-10-{day:02}" for day in range(1, 11)]
    for name in names:
        make(folder, name, shards=1)
    random.Random(1).shuffle(names)
    with ThreadPoolExecutor(10) as pool:
        moved = list(pool.map(lambda name: advance(Series(folder), name), names))
    latest = Series(folder).latest()
    assert latest and latest.dataset == "2026-10-10"
    assert moved[names.index("2026-10-10")]


def test_who_always_loses_gives_up(folder: str) -> None:
    """A rival writes between each read of LATEST.json and the write that depends on it."""
    series = nights(folder, [DAYS[0]])
    make(folder, DAYS[1])
    path, lost = series.layout.latest, 0

    def rival(operation: str, at: str) -> None:
        nonlocal lost
        if (operation, at) == ("put", path):
            lost += 1
            Path(path).write_bytes(Path(path).read_bytes() + b" ")

    with observed(rival), pytest.raises(StoppedError, match="others keep changing it; run again") as raised:
        advance(series, DAYS[1])
    assert lost == series_module.TRIES
    assert raised.value.exit_code == ExitCode.RETRYABLE
    assert advance(series, DAYS[1])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"not JSON", "can't be read"),
        (b"[]", "can't be read"),
        (b'{"format_version": 1, "dataset": "2026-11-21"}', "can't be read"),
        (b'{"format_version": 2}', r"is of another version of this program \(got format version 2\)"),
    ],
)
def test_a_latest_that_is_none_is_told(folder: str, data: bytes, told: str) -> None:
    series = nights(folder, [DAYS[0]])
    Path(folder, "LATEST.json").write_bytes(data)
    for call in (
        series.latest,
        lambda: advance(series, DAYS[0]),
        series.rollback,
        series.unpin,
        series.prune,
    ):
        with pytest.raises(SeriesError, match=f"LATEST.json: {told}"):
            call()
    assert Path(folder, "LATEST.json").read_bytes() == data


def test_fields_of_the_future_are_passed_over() -> None:
    latest = Latest.at("x", datetime.date(2026, 11, 21), DatasetFacts("d", "v", 1), None)
    content = latest.fields() | {"colour": "blue"}
    assert Latest.from_bytes(json.dumps(content).encode(), "LATEST.json") == latest


# Rolling back.


def test_a_rollback_holds_until_it_is_unpinned(folder: str) -> None:
    series = nights(folder, DAYS[:3])
    back = series.rollback()
    assert back == series.latest()
    assert (back.dataset, back.pinned, back.previous, back.rows) == (DAYS[1], True, DAYS[0], 3)
    make(folder, DAYS[3])
    assert not advance(series, DAYS[3])
    assert series.latest() == back
    further = series.rollback()
    assert (further.dataset, further.previous) == (DAYS[0], None)
    with pytest.raises(SeriesError, match=f"holds no complete dataset older than {DAYS[0]}"):
        series.rollback()
    on = series.unpin()
    assert on == series.latest()
    assert (on.dataset, on.pinned, on.previous) == (DAYS[3], False, DAYS[0])
    make(folder, DAYS[4])
    assert advance(series, DAYS[4])


def test_a_rollback_without_a_name_goes_to_whom_readers_followed_before(folder: str) -> None:
    """Readers never followed a dataset that was finished late, so a rollback does not go to it."""
    series = nights(folder, [DAYS[0], DAYS[2]])
    make(folder, DAYS[1])
    assert series.rollback().dataset == DAYS[0]


def test_a_rollback_passes_over_a_predecessor_that_is_gone(folder: str) -> None:
    series = nights(folder, DAYS[:4])
    Path(folder, DAYS[2], "data/_SUCCESS").unlink()
    assert series.rollback().dataset == DAYS[1]


def test_a_rollback_from_a_retry_goes_to_what_it_mended(folder: str) -> None:
    series = nights(folder, DAYS[:2])
    retried = f"{DAYS[1]}-retry1"
    make(folder, retried)
    date = datetime.date.fromisoformat(DAYS[1])
    assert series.advance(retried, date, DatasetFacts.of(series.dataset(retried)))
    assert series.rollback().dataset == DAYS[1]


def test_the_present_one_may_be_pinned(folder: str) -> None:
    series = nights(folder, DAYS[:2])
    assert series.rollback(DAYS[1]).pinned
    make(folder, DAYS[2])
    assert not advance(series, DAYS[2])
    assert series.unpin().dataset == DAYS[2]


def test_unpinned_at_the_newest_it_stays_there(folder: str) -> None:
    series = nights(folder, DAYS[:2])
    series.rollback(DAYS[1])
    on = series.unpin()
    assert (on.dataset, on.pinned, on.previous) == (DAYS[1], False, DAYS[0])


def test_a_run_that_ends_while_it_is_unpinned_is_not_lost(folder: str) -> None:
    """The next run ends after the datasets have been listed."""
    series = nights(folder, DAYS[:3])
    series.rollback()

    def night(operation: str, path: str) -> None:
        if operation == "info" and path.endswith(f"{DAYS[2]}/data/_SUCCESS") and DAYS[3] not in names_seen:
            names_seen.append(DAYS[3])
            make(folder, DAYS[3])
            assert advance(Series(folder), DAYS[3])

    names_seen: list[str] = []
    with observed(night):
        on = series.unpin()
    assert names_seen
    assert (on.dataset, on.pinned) == (DAYS[3], False)


def damage(folder: str, name: str, how: str) -> None:
    data = Path(folder, name, "data")
    if how == "missing":
        (data / "part-s1.parquet").unlink()
    elif how == "foreign":
        (data / "part-x.parquet").write_bytes((data / "part-s1.parquet").read_bytes())
    elif how == "size":
        with (data / "part-s1.parquet").open("ab") as file:
            file.write(b"0")
    elif how == "manifest":
        (data.parent / "manifest.parquet").write_bytes(b"0")
    elif how == "no manifest":
        (data.parent / "manifest.parquet").unlink()
    elif how == "unfinished":
        (data / "_SUCCESS").unlink()
    elif how == "not ours":
        (data.parent / "dataset.json").write_text('{"format_version": 1, "name": "somebody else\'s"}')


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("missing", r"/data: is damaged: part-s1.parquet is missing; name another"),
        ("foreign", r"/data: is damaged: part-x.parquet is foreign; name another"),
        ("size", r"/data: is damaged: part-s1.parquet has (\d+) bytes instead of (\d+); name another"),
        ("manifest", r": is damaged: its manifest can't be read"),
        ("no manifest", r": is damaged: its manifest can't be read"),
        ("unfinished", r": is not complete: it has no data/_SUCCESS; run its config again"),
        ("not ours", rf": is not a dataset of ours; complete datasets: {DAYS[0]}, {DAYS[2]}$"),
    ],
)
def test_a_rollback_to_what_is_not_whole_is_refused(folder: str, how: str, told: str) -> None:
    series = nights(folder, DAYS[:3])
    damage(folder, DAYS[1], how)
    before = everything(series)
    with pytest.raises(SeriesError, match=told) as raised:
        series.rollback(DAYS[1])
    assert raised.value.exit_code == ExitCode.CONFIG
    assert everything(series) == before
    if how not in ("unfinished", "not ours"):  # these are skipped
        with pytest.raises(SeriesError, match=told):
            series.rollback()


def test_other_rollbacks_that_are_refused(folder: str) -> None:
    series = Series(folder)
    for call in (series.rollback, lambda: series.rollback(DAYS[0]), series.unpin):
        with pytest.raises(SeriesError, match="LATEST.json: does not exist; no run has ended here"):
            call()
    nights(folder, DAYS[:2])
    make(folder, "copy-of-monday")
    for name, told in (
        ("2026-01-01", f"2026-01-01: is not a dataset of ours; complete datasets: {DAYS[0]}, {DAYS[1]}"),
        ("../series", "is not a dataset of ours"),
        ("copy-of-monday", "its name is not a date"),
    ):
        with pytest.raises(SeriesError, match=told):
            series.rollback(name)
    with pytest.raises(SeriesError, match="LATEST.json: is not pinned"):
        series.unpin()


def test_an_undone_rollback_gives_readers_back_what_it_displaced(folder: str) -> None:
    """A run ends between the rollback's read of LATEST.json and its write; then the target is pruned."""
    series = nights(folder, DAYS[:3])
    make(folder, DAYS[3])
    moved = False

    def rivals(operation: str, path: str) -> None:
        nonlocal moved
        if path == f"{folder}/{DAYS[0]}/manifest.parquet" and not moved:
            assert advance(Series(folder), DAYS[3])
            moved = True
        elif moved and (operation, path) == ("put", series.layout.latest):
            Path(folder, DAYS[0], "data/_SUCCESS").unlink(missing_ok=True)

    with observed(rivals), pytest.raises(StoppedError, match="is being removed"):
        series.rollback(DAYS[0])
    latest = series.latest()
    assert latest and (latest.dataset, latest.previous, latest.pinned) == (DAYS[3], DAYS[2], False)


def test_a_night_that_ends_while_a_rollback_is_undone_is_not_lost(folder: str) -> None:
    """The run finds LATEST.json pinned, and no process would advance it before the next run."""
    series = nights(folder, DAYS[:3])
    make(folder, DAYS[3])
    target = f"{folder}/{DAYS[0]}/data/_SUCCESS"

    def rivals(operation: str, path: str) -> None:
        if (operation, path) == ("read", target):  # the last read
            Path(target).unlink()
            assert not advance(Series(folder), DAYS[3])

    with observed(rivals), pytest.raises(StoppedError, match="is being removed"):
        series.rollback(DAYS[0])
    latest = series.latest()
    assert latest and (latest.dataset, latest.pinned) == (DAYS[3], False)


def test_a_rollback_does_not_believe_what_a_mount_remembers(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may report a removed file for a minute, until it is opened.

    No such system can be mounted here, so its answer is faked.
    """
    series = nights(folder, DAYS[:3])
    before, target = series.latest(), Path(folder, DAYS[0], "data/_SUCCESS")
    remembered = series.storage.info(str(target))
    asked = type(series.storage).info

    def info(store: storage.Storage, path: str) -> storage.ObjectInfo:
        return remembered if path == str(target) else asked(store, path)

    def prune(operation: str, path: str) -> None:
        if (operation, path) == ("put", series.layout.latest):
            target.unlink(missing_ok=True)

    monkeypatch.setattr(type(series.storage), "info", info)
    with observed(prune), pytest.raises(StoppedError, match="is being removed"):
        series.rollback(DAYS[0])
    assert series.latest() == before


def test_retries_of_a_date_are_ordered_by_their_numbers(folder: str) -> None:
    series = nights(folder, DAYS[:1])
    date = datetime.date.fromisoformat(DAYS[0])
    for number in (1, 2, 9, 10, 11):
        name = f"{DAYS[0]}-retry{number}"
        make(folder, name)
        assert series.advance(name, date, DatasetFacts.of(series.dataset(name))), name
    assert not series.advance(f"{DAYS[0]}-retry9", date, DatasetFacts("d", "v", 1))
    assert series.rollback().dataset == f"{DAYS[0]}-retry10"
    assert series.rollback().dataset == f"{DAYS[0]}-retry9"
    assert series.unpin().dataset == f"{DAYS[0]}-retry11"


@pytest.mark.parametrize("field", ["dataset", "previous"])
@pytest.mark.parametrize("name", ["../other", "a/b", "/etc", "..", ".", "", ".hidden", "a\x1b[2J", "a\nb", 5])
def test_a_latest_that_names_what_is_no_dataset_of_its_series_is_told(
    folder: str, field: str, name: object
) -> None:
    series = nights(folder, DAYS[:2])
    path = Path(folder, "LATEST.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: name}))
    with pytest.raises(SeriesError, match="LATEST.json: can't be read") as raised:
        series.latest()
    assert str(raised.value).isprintable()


def test_a_folder_whose_name_can_not_be_shown_is_not_ours(folder: str) -> None:
    series = nights(folder, DAYS[:2])
    make(folder, "2026-11-20\x1b[2J")
    assert names_in(series) == DAYS[:2]
    with pytest.raises(SeriesError, match="is not a dataset of ours") as raised:
        series.rollback("2026-11-20\x1b[2J")
    assert str(raised.value).isprintable()


# The datasets of a series.


def test_only_our_datasets_right_in_the_folder_count(root: str) -> None:
    store = storage.connect(root)
    assert Series(root).datasets() == []
    make(root, DAYS[0])
    make(root, DAYS[1], complete=False, base=f"{root}/{DAYS[0]}")
    make(root, "20261122")
    make(f"{root}/deeper", DAYS[2])
    for path in ("notes.txt", "other/dataset.json", "list/dataset.json", "future/dataset.json", "plain/x"):
        content = {"list": b"[]", "future": b'{"format_version": 2, "dataset_digest": "x"}'}
        store.put(f"{root}/{path}", content.get(path.split("/")[0], b"\xff"))
    found = {member.name: member for member in Series(root).datasets()}
    assert list(found) == [DAYS[0], DAYS[1], "20261122"]
    told = {name: (member.run_date, member.complete, member.base) for name, member in found.items()}
    dates = [datetime.date.fromisoformat(day) for day in DAYS]
    assert told == {
        "20261122": (None, True, None),
        DAYS[0]: (dates[0], True, None),
        DAYS[1]: (dates[1], False, DAYS[0]),
    }
    assert all(member.created and member.created < LATER for member in found.values())


def test_to_look_at_a_dataset_costs_three_requests(folder: str) -> None:
    for name in DAYS:
        make(folder, name)
    (Path(folder) / "somebody-else").mkdir()
    before = telemetry.requests.copy()
    Series(folder).datasets()
    assert telemetry.requests - before == {"list": 1, "read": len(DAYS) + 1, "info": 2 * len(DAYS)}


# Removing.


def fates(found: list[PruneDecision]) -> dict[str, str]:
    return {fate.name: f"{'removed' if fate.removed else 'kept'}: {fate.reason}" for fate in found}


def test_what_is_old_and_needed_by_nobody_goes(root: str) -> None:
    """Readers are pinned to the second of six datasets; the newest two are to stay."""
    series = Series(root)
    for name in DAYS:
        make(root, name)
    series.storage.put(
        series.layout.latest,
        Latest.at(
            DAYS[1], datetime.date(2026, 11, 22), DatasetFacts("d", "v", 1), DAYS[0], pinned=True
        ).to_bytes(),
    )
    before = everything(series)
    told = series.prune(keep=2, dry_run=True, now=LATER)
    assert everything(series) == before
    assert fates(told) == {
        DAYS[0]: "kept: a rollback goes to it",
        DAYS[1]: "kept: readers follow it",
        DAYS[2]: "removed: 3 newer ones are complete",
        DAYS[3]: "removed: 2 newer ones are complete",
        DAYS[4]: "kept: one of the 2 newest",
        DAYS[5]: "kept: one of the 2 newest",
    }
    assert series.prune(keep=2, now=LATER) == told
    gone = tuple(f"{fate.name}/" for fate in told if fate.removed)
    assert everything(series) == {name: info for name, info in before.items() if not name.startswith(gone)}
    if "://" not in root:
        assert not (Path(root) / DAYS[2]).exists()


def test_days_spare_what_the_count_would_not(folder: str) -> None:
    series = nights(folder, DAYS)
    noon = datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)
    for path in Path(folder).rglob("*"):
        os.utime(path, (0, 0))
    told = fates(series.prune(keep=1, older_than_days=8, dry_run=True, now=noon))
    assert told == {
        DAYS[0]: "removed: 5 newer ones are complete",
        DAYS[1]: "removed: 4 newer ones are complete",
        DAYS[2]: "kept: not older than 8 days",
        DAYS[3]: "kept: not older than 8 days",
        DAYS[4]: "kept: a rollback goes to it",
        DAYS[5]: "kept: readers follow it",
    }
    assert names_in(series) == DAYS


def test_the_order_of_removal(folder: str) -> None:
    series = nights(folder, DAYS[:3])
    layout = series.layout.dataset(DAYS[0])
    files = set(series.storage.list_recursive(layout.root))
    with removals() as paths:
        [removed] = [fate for fate in series.prune(keep=2, now=LATER) if fate.removed]
    assert removed.name == DAYS[0]
    # If the store replaces dataset.json under a lock, the removal itself makes that lock.
    assert {path.removeprefix(f"{layout.root}/") for path in paths} - {".lock"} == files
    assert paths[0] == layout.success
    assert paths[-2:] == [layout.plan, layout.identity]


@pytest.mark.parametrize("limit", range(10))
def test_killed_anywhere_the_next_call_goes_on(folder: str, limit: int) -> None:
    """A half-removed dataset is incomplete, is not rolled back to, and is removed by the next call."""
    series = nights(folder, DAYS[:3])
    with removals(limit), pytest.raises(KeyboardInterrupt):
        series.prune(keep=2, now=LATER)
    [half] = [member for member in series.datasets() if member.name == DAYS[0]]
    assert half.complete == (limit == 0)
    if limit:
        with pytest.raises(SeriesError, match="is not complete"):
            series.rollback(DAYS[0])
    told = fates(series.prune(keep=2, now=LATER))[DAYS[0]]
    assert told == f"removed: {'' if half.complete else 'unfinished; '}2 newer ones are complete"
    assert names_in(series) == DAYS[1:3]
    assert not Path(folder, DAYS[0]).exists()


def test_somebody_elses_file_stays_and_is_named(root: str) -> None:
    series = Series(root)
    for name in DAYS[:3]:
        make(root, name)
    theirs = ["data/.hidden/part-0.parquet", "data/index.faiss", "notes.txt", "rejects/deep/part-1.parquet"]
    for name in theirs:
        series.storage.put(f"{root}/{DAYS[0]}/{name}", b"1")
    for dry_run in (True, False):
        [removed] = [fate for fate in series.prune(2, dry_run=dry_run, now=LATER) if fate.removed]
        assert removed.left == theirs
    assert sorted(series.storage.list_recursive(f"{root}/{DAYS[0]}")) == theirs
    assert names_in(series) == DAYS[1:3]


def test_what_changed_within_a_day_stays(folder: str) -> None:
    """The dataset is old by its name and its dataset.json, but a run is still at work on it."""
    series = nights(folder, DAYS[:4])
    make(folder, "2026-11-01", complete=False)
    for path in Path(folder).rglob("*"):
        os.utime(path, (0, 0))
    os.utime(Path(folder, "2026-11-01", "data/part-s1.parquet"))
    told = fates(series.prune(keep=2))
    assert told["2026-11-01"] == "kept: changed within a day"
    assert told[DAYS[0]] == "removed: 3 newer ones are complete"
    os.utime(Path(folder, "2026-11-01", "data/part-s1.parquet"), (0, 0))
    assert fates(series.prune(keep=2))["2026-11-01"] == "removed: unfinished; 2 newer ones are complete"


@pytest.mark.parametrize("named", ["{name}", "{root}/{name}", "{root}/{name}/"])
def test_a_base_stays_until_who_needs_it_is_complete(folder: str, named: str) -> None:
    series = nights(folder, DAYS[:4])
    make(folder, DAYS[4], complete=False, base=named.format(name=DAYS[0], root=folder))
    told = fates(series.prune(keep=1, now=LATER))
    assert told[DAYS[0]] == f"kept: {DAYS[4]}, unfinished, takes vectors from it"
    assert told[DAYS[1]].startswith("removed")
    assert told[DAYS[4]] == "kept: unfinished, and among the newest"
    series.storage.put_if_absent(series.layout.dataset(DAYS[4]).success, b"")
    assert fates(series.prune(keep=1, now=LATER))[DAYS[0]].startswith("removed")


def test_unfinished_ones_do_not_use_up_what_is_kept(folder: str) -> None:
    series = nights(folder, DAYS[:3])
    for name in DAYS[3:]:
        make(folder, name, complete=False)
    assert not [fate for fate in series.prune(keep=3, now=LATER) if fate.removed]


def test_a_name_that_is_no_date_is_left_alone(folder: str) -> None:
    series = nights(folder, DAYS)
    make(folder, "before-the-move")
    assert fates(series.prune(keep=1, now=LATER))["before-the-move"] == "kept: its name is not a date"


@pytest.mark.parametrize("linked", ["data", "rejects", "ledger"])
def test_nothing_is_removed_through_a_link(folder: str, linked: str) -> None:
    """A folder of the oldest dataset is a link into a dataset that stays."""
    series = nights(folder, DAYS[:4])
    kept, old = Path(folder, DAYS[3]), Path(folder, DAYS[0])
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    shutil.rmtree(old / linked)
    (old / linked).symlink_to(kept / linked)
    fate = fates(series.prune(keep=2, now=LATER))[DAYS[0]]
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
    if linked == "data":
        assert fate == "kept: it was just completed, or its data/ is a link to another's"
    else:
        assert fate.startswith("removed")
        assert names_in(series) == DAYS[2:4]


def test_a_run_that_completes_a_dataset_while_it_is_listed_is_not_undone(folder: str) -> None:
    series = nights(folder, DAYS[:3])
    success = series.layout.dataset(DAYS[0]).success
    Path(success).unlink()
    listed = f"{folder}/{DAYS[0]}"

    def run(operation: str, path: str) -> None:
        if (operation, path) == ("info", success) and looked:
            Path(success).touch()
        looked.extend([path] if (operation, path) == ("list", listed) else [])

    looked: list[str] = []
    with observed(run):
        told = fates(series.prune(keep=2, now=LATER))
    assert told[DAYS[0]].startswith("kept: it was just completed")
    assert series.rollback(DAYS[0]).rows == 3


@pytest.mark.parametrize("moment", ["before _SUCCESS", "after _SUCCESS"])
def test_whom_readers_come_to_follow_is_not_removed(folder: str, moment: str) -> None:
    """A person rolls back while the prune is at work."""
    series = nights(folder, DAYS[:3])
    layout = series.layout.dataset(DAYS[0])
    before = set(everything(series))
    looks = 0

    def rollback(operation: str, path: str) -> None:
        nonlocal looks
        if (operation, path) == ("read", series.layout.latest):
            looks += 1  # at the start; before _SUCCESS is removed; after that
            if looks == (2 if moment == "before _SUCCESS" else 3):
                latest = Latest.at(
                    DAYS[0], datetime.date(2026, 11, 21), DatasetFacts("d", "v", 3), None, True
                )
                Path(path).write_bytes(latest.to_bytes())

    with observed(rollback), removals() as paths:
        told = fates(series.prune(keep=2, now=LATER))
    assert told[DAYS[0]] == "kept: readers have come to follow it"
    assert paths == ([] if moment == "before _SUCCESS" else [layout.success])
    assert {path for path in everything(series) if not path.endswith("/.lock")} == {
        path for path in before if not path.endswith("/.lock")
    }
    assert series.dataset(DAYS[0]).complete()


def test_a_rollback_to_what_is_just_being_removed_is_taken_back(folder: str) -> None:
    series = nights(folder, DAYS[:3])
    before = series.latest()

    def prune(operation: str, path: str) -> None:
        if (operation, path) == ("put", series.layout.latest):
            Path(folder, DAYS[0], "data/_SUCCESS").unlink(missing_ok=True)

    with observed(prune), pytest.raises(StoppedError, match=f"{DAYS[0]}: is being removed"):
        series.rollback(DAYS[0])
    assert series.latest() == before


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"keep": 0}, "keep 0: at least 1 stays"),
        ({"keep": -1, "older_than_days": 0}, "keep -1: at least 1 stays, older than 0 days: at least 1"),
    ],
)
def test_limits_without_sense_are_refused(folder: str, limits: dict[str, Any], told: str) -> None:
    series = nights(folder, DAYS)
    before = everything(series)
    with pytest.raises(SeriesError, match=told) as raised:
        series.prune(**limits, now=LATER)
    assert raised.value.exit_code == ExitCode.CONFIG
    assert everything(series) == before


def test_a_folder_without_datasets_is_told(folder: str) -> None:
    with pytest.raises(SeriesError, match="holds no dataset of ours; check output.path"):
        Series(folder).prune()


# The command line.


@pytest.fixture
def written(tmp_path: Path, folder: str) -> str:
    values = CONFIG | {"output": {"path": f"{folder}/{{run_date}}"}}
    return str(write_config(tmp_path / "nightly.yaml", values))


def test_rollback_and_prune_on_the_command_line(
    folder: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    series = nights(folder, DAYS)
    for path in Path(folder).rglob("*"):
        os.utime(path, (0, 0))
    Path(folder, DAYS[0], "mine.txt").write_text("1")
    os.utime(Path(folder, DAYS[0], "mine.txt"), (0, 0))
    assert cli.main(["rollback", written, "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["dataset"] == DAYS[4]
    assert cli.main(["rollback", written, "--to", DAYS[3]]) == ExitCode.DONE
    assert f"  previous  {DAYS[2]}\n" in capsys.readouterr().out
    assert cli.main(["prune", written, "--keep", "2", "--dry-run"]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{DAYS[0]}  would go  5 newer ones are complete",
        "            stays     not ours: mine.txt",
        f"{DAYS[1]}  would go  4 newer ones are complete",
        f"{DAYS[2]}  kept      a rollback goes to it",
        f"{DAYS[3]}  kept      readers follow it",
        f"{DAYS[4]}  kept      one of the 2 newest",
        f"{DAYS[5]}  kept      one of the 2 newest",
    ]
    assert cli.main(["prune", written, "--keep", "2", "--json"]) == ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in shown["datasets"] if each["removed"]] == DAYS[:2]
    assert shown["datasets"][0]["left"] == ["mine.txt"]
    assert names_in(series) == DAYS[2:]
    assert cli.main(["rollback", written, "--unpin"]) == ExitCode.DONE
    assert f"   dataset  {DAYS[5]}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["rollback"], "LATEST.json: does not exist; no run has ended here; check output.path"),
        (["rollback", "--unpin"], "LATEST.json: does not exist; no run has ended here; check output.path"),
        (["prune"], "holds no dataset of ours; check output.path"),
        (["prune", "--keep", "0"], "exit 2: nothing is pruned by such limits: keep 0: at least 1 stays"),
    ],
)
def test_what_is_refused_ends_in_2_and_a_line(
    written: str, arguments: list[str], last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *more = arguments
    assert cli.main([command, written, *more]) == ExitCode.CONFIG
    assert capsys.readouterr().err.splitlines()[-1].endswith(last)


@pytest.mark.usefixtures("flow")
@pytest.mark.full
def test_what_a_real_run_leaves_can_be_taken_back_to_and_removed(
    job: Job, folder: str, tmp_path: Path
) -> None:
    written = str(write_config(tmp_path / "job.yaml", job(output={"path": f"{folder}/{{run_date}}"})))
    assert cli.main(["run", written, "--run-date", DAYS[0], "--quiet"]) == ExitCode.DONE
    series = Series(folder)
    advance(series, DAYS[0])
    for name in DAYS[1:3]:
        make(folder, name)
        assert advance(series, name)
    assert series.rollback(DAYS[0]).rows == 60
    assert series.unpin().dataset == DAYS[2]
    series.rollback(DAYS[2])  # its predecessor is the dataset before it, not the real one
    told = fates(series.prune(keep=1, now=LATER))
    assert told[DAYS[0]] == "removed: 2 newer ones are complete"
    assert not Path(folder, DAYS[0]).exists()


@pytest.mark.parametrize(
    "path", ["/out", "/out/{run_date}/x", "/out/run-{run_date}", "s3://{run_date}", "/{run_date}/{run_date}"]
)
def test_a_path_that_makes_no_series_is_refused(written: str, path: str) -> None:
    arguments = cli.parser().parse_args(["prune", written, "--set", f"output.path={path}"])
    with pytest.raises(ConfigError) as raised:
        series_of(arguments)
    assert isinstance(raised.value, PipelineError)
    assert raised.value.got == path
    assert "{run_date} as the last part of output.path" in str(raised.value)
