"""Tests that changes are what a full comparison of the two datasets finds, whatever happened to the rows."""

import datetime
import itertools
import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli, schema
from pipeline.config.load import parse_config
from pipeline.config.location import Options
from pipeline.dataset.dataset import Dataset
from pipeline.driver.changes import make_changes
from pipeline.embed import spread_out
from pipeline.errors import (
    ConfigError,
    DamagedError,
    ExitCode,
    IncompleteError,
    MissingError,
    OtherDatasetError,
    SeriesError,
    StoppedError,
)
from pipeline.nightly import Series
from pipeline.nightly.changes import partitions
from pipeline.nightly.changes.pair import Side
from pipeline.nightly.changes.record import Changes
from tests.conftest import observed, write_config
from tests.driver.test_reuse import embed
from tests.written_datasets import COLUMNS, Files, Kind, made, rows

PLACE = {"source_file", "source_row"}
OLD, NEW = "2026-11-24", "2026-11-25"


def key(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row["id"] if "id" in row else row["key"], row.get("chunk", 0)


def compared(new: Dataset, old: Dataset) -> dict[tuple[Any, Any], tuple[str, dict[str, Any]]]:
    """Compares all rows of two datasets in pandas, and returns the change and the row of each id."""
    frames = []
    for dataset in (old, new):
        every = rows(dataset)
        content = [
            json.dumps({k: v for k, v in row.items() if k not in PLACE}, default=repr) for row in every
        ]
        ids = [json.dumps(key(row)) for row in every]
        frames.append(pd.DataFrame({"id": ids, "content": content, "row": every}))
    both = frames[0].merge(frames[1], on="id", how="outer", suffixes=("_old", "_new"), indicator=True)
    changed = both[(both["_merge"] != "both") | (both["content_old"] != both["content_new"])]
    names = {"left_only": "deleted", "right_only": "added", "both": "updated"}
    found = {}
    for each in changed.to_dict("records"):
        change = names[each["_merge"]]
        row = each["row_old"] if change == "deleted" else each["row_new"]
        found[key(row)] = change, row
    return found


def found_in(made: Changes) -> dict[tuple[Any, Any], tuple[str, dict[str, Any]]]:
    """Reads all parts of changes."""
    every = [
        row for part in sorted(Path(made.folder).glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]
    found = {key(row): (row.pop("change"), row) for row in every}
    assert len(found) == len(every), "a row is there twice"
    return found


def assert_like_a_full_comparison(new: Dataset, old: Dataset) -> Changes:
    changes = between(new, old)
    wanted, found = compared(new, old), found_in(changes)
    assert {key: change for key, (change, _) in found.items()} == {
        k: change for k, (change, _) in wanted.items()
    }
    for each, (change, row) in found.items():
        theirs = wanted[each][1]
        if change == "deleted":
            kept = {*PLACE, "key" if "key" in row else "id", *({"chunk"} & row.keys())}
            assert {name: value for name, value in row.items() if value is not None} == {
                name: theirs[name] for name in kept
            }
        else:
            assert row == theirs
    assert changes.rows_before + changes.added - changes.deleted == changes.rows == len(rows(new))
    return changes


def side(dataset: Dataset) -> Side:
    return Side.at(dataset.layout.root, Options())


def between(new: Dataset, old: Dataset, dry_run: bool = False) -> Changes:
    return make_changes(side(new), side(old), dry_run)


def corpus(files: int = 4, size: int = 5) -> dict[str, list[dict[str, Any]]]:
    """Returns files of rows with ids from 0."""
    return {
        f"{file}.parquet": [
            {"key": file * size + at, "text": f"text {file * size + at}", "topic": f"t{at}"}
            for at in range(size)
        ]
        for file in range(files)
    }


def nights(tmp_path: Path, before: Files, after: Files, kind: Kind | None = None) -> tuple[Dataset, Dataset]:
    """Writes two nights; returns the new one, then the old one."""
    old = made(str(tmp_path / OLD), before, kind)
    return made(str(tmp_path / NEW), after, kind), old


@contextmanager
def shards_opened() -> Iterator[list[str]]:
    opened: list[str] = []

    def observe(operation: str, path: str) -> None:
        if operation in ("open", "read") and "/data/part-" in path:
            opened.append(path)

    with observed(observe):
        yield opened


def changed_in_every_way(chunked: bool = False) -> tuple[Files, Files]:
    """Returns a corpus before and after a day on which everything happened that can."""
    before = corpus(7)
    after = {name: [dict(row) for row in rows] for name, rows in before.items()}
    after["0.parquet"].append({"key": 100, "text": "a new text", "topic": "new"})
    after["1.parquet"][2]["text"] = "another text"
    after["1.parquet"][3]["topic"] = None
    del after["2.parquet"][1]
    after["3.parquet"].reverse()  # rewritten: rows have other places
    after["moved.parquet"] = after.pop("4.parquet")
    del after["5.parquet"]
    if chunked:
        for rows in (*before.values(), *after.values()):
            rows[:] = [
                {**row, "chunk": chunk, "text": f"{row['text']}, {chunk}", "row": at}
                for at, row in enumerate(rows)
                for chunk in range(2)
            ]
        after["1.parquet"].pop()  # a text that has a window less
    return before, after


@pytest.mark.parametrize("chunked", [False, True])
def test_every_kind_of_change(tmp_path: Path, chunked: bool) -> None:
    new, old = nights(tmp_path, *changed_in_every_way(chunked), Kind(chunked=chunked))
    with shards_opened() as opened:
        changes = between(new, old)
    windows = 2 if chunked else 1
    assert changes.added == windows
    assert changes.updated == 2 * windows
    assert changes.deleted == 6 * windows + chunked
    assert_like_a_full_comparison(new, old)
    # One file is the same in both; of the other shards, only those with changes are read a second time.
    assert (changes.shared, changes.ids_read) == (1, 5 * windows)
    assert changes.rows_read == len(rows(old)) + len(rows(new)) - 2 * 5 * windows
    assert len(opened) == (6 + 5) + 1 + (2 + 2) + chunked


@pytest.mark.parametrize("seed", range(8))
def test_any_changes_equal_a_full_comparison(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    before = corpus(draw.randint(1, 6), draw.randint(1, 8))
    every = [dict(row) for rows in before.values() for row in rows]
    kept = [row for row in every if draw.random() < 0.9]
    for row in kept:
        if draw.random() < 0.2:
            row[draw.choice(["text", "topic"])] = f"changed {draw.random()}"
    kept += [{"key": 1000 + at, "text": f"new {at}", "topic": "n"} for at in range(draw.randint(0, 5))]
    after: dict[str, list[dict[str, Any]]] = {}
    for row in kept:
        home = f"{row['key'] // 8}.parquet" if draw.random() < 0.9 else "elsewhere.parquet"
        after.setdefault(home, []).append(row)
    new, old = nights(tmp_path, before, after)
    forwards = assert_like_a_full_comparison(new, old)
    backwards = assert_like_a_full_comparison(old, new)
    assert (backwards.added, backwards.updated, backwards.deleted) == (
        forwards.deleted, forwards.updated, forwards.added,
    )  # fmt: skip


def test_a_night_in_which_nothing_changed_reads_no_row(tmp_path: Path) -> None:
    new, old = nights(tmp_path, corpus(), corpus())
    with shards_opened() as opened:
        changes = between(new, old)
    assert opened == []
    assert changes.figures == {
        "added": 0, "updated": 0, "deleted": 0, "rows": 20, "rows_before": 20, "shared": 4, "rows_read": 0,
        "ids_read": 0,
    }  # fmt: skip
    (part,) = Path(changes.folder).glob("*.parquet")
    assert pq.read_schema(part).names[:2] == ["change", "key"]
    assert pq.read_metadata(part).num_rows == 0


def test_the_cost_follows_what_changed(tmp_path: Path) -> None:
    before, after = corpus(20), corpus(20)
    after["7.parquet"][0]["text"] = "changed"
    proven = {"repeated_ids": 0}
    new, old = made(str(tmp_path / NEW), after, **proven), made(str(tmp_path / OLD), before, **proven)
    with shards_opened() as opened:
        changes = between(new, old)
    assert (changes.updated, changes.rows_read, changes.ids_read) == (1, 10, 0)
    assert len(opened) == 3  # the shard before and now, and the changed row


def test_a_row_that_only_moved_is_no_change(tmp_path: Path) -> None:
    before = corpus(2)
    after = {"one.parquet": [*before["1.parquet"], *before["0.parquet"]]}
    new, old = nights(tmp_path, before, after)
    assert not any(between(new, old).counts.values())


def test_without_a_column_of_ids_a_row_is_its_place(tmp_path: Path) -> None:
    before, after = corpus(2), corpus(2)
    after["1.parquet"].insert(0, {"key": 9, "text": "the first", "topic": "n"})
    new, old = nights(tmp_path, before, after, Kind(id_column=None))
    changes = assert_like_a_full_comparison(new, old)
    assert (changes.added, changes.updated, changes.deleted) == (1, 5, 0)


@pytest.mark.parametrize(
    ("kind", "updated"),
    [
        (Kind(model="another"), 20), (Kind(vector=1), 20),
        (Kind(columns=COLUMNS.append(pa.field("lang", pa.string()))), 20),
    ],
    ids=["another model", "other vectors", "another column"],
)  # fmt: skip
def test_other_outputs_and_columns_update_rows(tmp_path: Path, kind: Kind, updated: int) -> None:
    before, after = corpus(), corpus()
    old, new = made(str(tmp_path / OLD), before), made(str(tmp_path / NEW), after, kind)
    changes = between(new, old)
    assert (changes.added, changes.updated, changes.deleted) == (0, updated, 0)


def test_an_id_column_that_was_widened(tmp_path: Path) -> None:
    narrow = Kind(columns=pa.schema([pa.field("key", pa.int32()), pa.field("topic", pa.string())]))
    before, after = corpus(2), corpus(1)
    old, new = made(str(tmp_path / OLD), before, narrow), made(str(tmp_path / NEW), after)
    changes = between(new, old)
    assert (changes.updated, changes.deleted) == (5, 5)
    assert between(old, new).added == 5


def test_deleted_rows_keep_the_schema_of_all_others(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    changes = between(new, old)
    schemas = {str(pq.read_schema(part).remove_metadata()) for part in Path(changes.folder).glob("*.parquet")}
    assert len(schemas) == 1
    assert any(part.name.endswith("-deleted.parquet") for part in changes.parts)


# Ids.


@pytest.mark.parametrize("where", ["0.parquet", "3.parquet"])
def test_ids_of_more_than_one_row_are_refused(tmp_path: Path, where: str) -> None:
    """The second row of an id stands in a file that changed, too, or in one that did not."""
    before, after = corpus(), corpus()
    after["0.parquet"][1]["text"] = "changed"
    after["0.parquet"].append({"key": int(after[where][2]["key"]), "text": "the same id", "topic": "t"})
    new, old = nights(tmp_path, before, after)
    with pytest.raises(IncompleteError) as raised:
        between(new, old)
    again = after[where][2]["key"]
    places = {f"docs/{where}#2", "docs/0.parquet#5"}
    assert raised.value.exit_code == ExitCode.INCOMPLETE
    assert f"got {again} (" in str(raised.value)
    assert all(place in str(raised.value) for place in places)
    assert not (tmp_path / NEW / "changes").exists()


def test_many_repeated_ids_are_counted(tmp_path: Path) -> None:
    after = corpus()
    after["again.parquet"] = [dict(row) for row in after["2.parquet"]]
    new, old = nights(tmp_path, corpus(), after)
    with pytest.raises(IncompleteError, match="and 2 more"):
        between(new, old)


def test_rows_without_an_id_are_refused(tmp_path: Path) -> None:
    after = corpus()
    after["1.parquet"][3]["key"] = None
    new, old = nights(tmp_path, corpus(), after)
    with pytest.raises(IncompleteError, match=r"no id.*1 rows, docs/1.parquet#3 the first"):
        between(new, old)


def test_other_ids_can_not_be_compared(tmp_path: Path) -> None:
    old = made(str(tmp_path / OLD), corpus(), Kind(id_column=None))
    with pytest.raises(SeriesError, match="another column of ids.*source.docs: id there, key here"):
        between(made(str(tmp_path / NEW), corpus()), old)


def test_windows_and_texts_can_not_be_compared(tmp_path: Path) -> None:
    _, windows = changed_in_every_way(chunked=True)
    new, old = made(str(tmp_path / NEW), windows, Kind(chunked=True)), made(str(tmp_path / OLD), corpus())
    with pytest.raises(SeriesError, match="2026-11-25 alone has windows"):
        between(new, old)


def test_a_dataset_is_not_compared_with_itself_or_an_unfinished_one(tmp_path: Path) -> None:
    new, old = nights(tmp_path, corpus(), corpus())
    with pytest.raises(SeriesError, match="with itself"):
        between(new, new)
    Path(old.layout.success).unlink()
    with pytest.raises(SeriesError, match="not a complete dataset"):
        between(new, old)


def test_a_carried_column_of_the_name_is_refused(tmp_path: Path) -> None:
    kind = Kind(columns=COLUMNS.append(pa.field("Change", pa.string())))
    new, old = nights(tmp_path, corpus(), corpus(), kind)
    with pytest.raises(SeriesError, match="got Change"):
        between(new, old)


# Killed, twice, and beside others.


def everything(changes: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(changes.iterdir())}


def test_killed_at_any_write_it_ends_the_same(tmp_path: Path) -> None:
    before, after = changed_in_every_way()
    new, old = nights(tmp_path / "whole", before, after)
    whole = everything(Path(between(new, old).folder))
    for limit in range(len(whole)):
        new, old = nights(tmp_path / str(limit), before, after)
        puts: list[str] = []

        def die(operation: str, path: str, puts: list[str] = puts, limit: int = limit) -> None:
            if operation == "put" and "/changes/" in path:
                puts.append(path)
                if len(puts) > limit:
                    raise KeyboardInterrupt

        with observed(die), pytest.raises(KeyboardInterrupt):
            between(new, old)
        assert not (tmp_path / str(limit) / NEW / "changes" / OLD / "_SUCCESS").exists()
        resumed = everything(Path(between(new, old).folder))
        assert resumed.keys() == whole.keys()
        assert {name: data for name, data in resumed.items() if name != "_since.json"} == {
            name: data for name, data in whole.items() if name != "_since.json"
        }


def test_what_is_complete_is_not_made_again(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    first = between(new, old)
    before = everything(Path(first.folder))
    with shards_opened() as opened:
        assert between(new, old) == first
    assert opened == []
    assert everything(Path(first.folder)) == before


def test_two_at_once_make_one(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: between(new, old), range(4)))
    assert found == [found[0]] * 4
    assert_like_a_full_comparison(new, old)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    counted = between(new, old, dry_run=True)
    assert not (tmp_path / NEW / "changes").exists()
    assert counted.counts == between(new, old).counts


def test_many_rows_go_through_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "IN_MEMORY", 100)
    new, old = nights(tmp_path, *changed_in_every_way())
    assert_like_a_full_comparison(new, old)


def test_a_dataset_that_is_being_removed_gets_none(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    ours, theirs = side(new), side(old)
    assert new.begin_removal()
    with pytest.raises(StoppedError, match="being removed"):
        make_changes(ours, theirs)


def test_changes_since_a_dataset_that_was_made_again(tmp_path: Path) -> None:
    before, after = changed_in_every_way()
    new, old = nights(tmp_path, before, after)
    between(new, old)
    (tmp_path / OLD).rename(tmp_path / "gone")
    old = made(str(tmp_path / OLD), corpus(2))
    with pytest.raises(OtherDatasetError, match="an earlier dataset of this name"):
        between(new, old)


def test_a_foreign_part_is_refused(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    folder = tmp_path / NEW / "changes" / OLD
    folder.mkdir(parents=True)
    (folder / "part-foreign.parquet").write_bytes(b"PAR1")
    with pytest.raises(OtherDatasetError, match="does not belong here"):
        between(new, old)


def test_a_part_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    changes = between(new, old)
    folder = Path(changes.folder)
    one, other = [folder / part.name for part in changes.parts][:2]
    one.write_bytes(other.read_bytes() if changes.parts[0].counts != changes.parts[1].counts else b"PAR1")
    for name in ("_counts.json", "_SUCCESS"):
        (folder / name).unlink()
    with pytest.raises(DamagedError):
        between(new, old)


def test_a_shard_that_is_gone_or_another_ones_is_named(tmp_path: Path) -> None:
    new, old = nights(tmp_path, *changed_in_every_way())
    theirs = {path.name: path for path in (tmp_path / OLD / "data").glob("part-*")}
    gone = next(path for name, path in theirs.items() if not (tmp_path / NEW / "data" / name).exists())
    other = next(path for path in theirs.values() if path != gone)
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(MissingError, match=gone.name):
        between(new, old)
    gone.write_bytes(other.read_bytes())
    with pytest.raises(OtherDatasetError, match="another dataset's shard"):
        between(new, old)
    gone.write_bytes(data)
    assert schema.RECORD_KEY in pq.read_metadata(gone).metadata
    assert_like_a_full_comparison(new, old)


# Nights.


@pytest.fixture
def nightly(job: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Returns a function that makes the values of a nightly job over the corpus, with changes."""

    def make(**sections: Any) -> dict[str, Any]:
        output = {"path": str(tmp_path / "series/{run_date}"), "rows_per_shard": 10}
        return job(**{"output": output, "reuse": {"base": "latest", "changes": True}} | sections)

    return make


def change_a_text(corpus: Path) -> None:
    table = pq.read_table(corpus / "1.parquet")
    changed = ["a new text", *table.column("text").to_pylist()[1:]]
    pq.write_table(table.set_column(1, "text", pa.array(changed)), corpus / "1.parquet")


@pytest.mark.usefixtures("flow")
def test_a_night_has_its_changes_before_readers_follow_it(
    nightly: Callable[..., dict[str, Any]], tmp_path: Path, corpus: Path
) -> None:
    first = embed(nightly(), 0)
    assert "changes" not in first.summary
    change_a_text(corpus)
    root, seen = tmp_path / "series" / "2026-11-02", []

    def look(operation: str, path: str) -> None:
        if operation == "put" and path.endswith("LATEST.json"):
            seen.append((root / "changes/2026-11-01/_SUCCESS").exists())

    with observed(look):
        ending = embed(nightly(), 1)
    assert seen == [True]
    assert ending.summary["changes"] == {"added": 0, "updated": 1, "deleted": 0}
    assert_like_a_full_comparison(Dataset(str(root)), Dataset(str(tmp_path / "series/2026-11-01")))


@pytest.mark.usefixtures("flow")
def test_a_night_that_died_before_its_changes_makes_them_when_it_is_run_again(
    nightly: Callable[..., dict[str, Any]], tmp_path: Path, corpus: Path
) -> None:
    embed(nightly(), 0)
    change_a_text(corpus)

    def die(operation: str, path: str) -> None:
        if operation == "put" and path.endswith("_counts.json"):
            raise KeyboardInterrupt

    with observed(die), pytest.raises(KeyboardInterrupt):
        embed(nightly(), 1)
    series = Series(str(tmp_path / "series"))
    latest = series.latest()
    assert latest is not None
    assert latest.dataset == "2026-11-01"
    assert embed(nightly(), 1).summary["changes"]["updated"] == 1
    latest = series.latest()
    assert latest is not None
    assert latest.dataset == "2026-11-02"
    # A prune may have removed the base since: what is there stays.
    shutil.rmtree(tmp_path / "series/2026-11-01")
    assert embed(nightly(), 1).summary["changes"]["updated"] == 1


@pytest.mark.usefixtures("flow")
def test_repeated_ids_keep_readers_where_they_are(
    nightly: Callable[..., dict[str, Any]], tmp_path: Path, corpus: Path
) -> None:
    embed(nightly(), 0)
    pq.write_table(pa.table({"key": [7], "text": ["another row 7"], "topic": ["t"]}), corpus / "3.parquet")
    with pytest.raises(IncompleteError, match="more than one row has an id"):
        embed(nightly(), 1)
    latest = Series(str(tmp_path / "series")).latest()
    assert latest is not None
    assert latest.dataset == "2026-11-01"
    # Without changes the night is published as it is.
    assert embed(nightly(reuse={"base": "latest"}), 1).code == ExitCode.DONE
    latest = Series(str(tmp_path / "series")).latest()
    assert latest is not None
    assert latest.dataset == "2026-11-02"


@pytest.mark.usefixtures("flow")
def test_a_base_that_is_gone_or_damaged_costs_only_its_changes(
    nightly: Callable[..., dict[str, Any]], tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embed(nightly(), 0)
    change_a_text(corpus)

    def prune(operation: str, path: str) -> None:
        if operation == "put" and path.endswith("2026-11-02/data/_SUCCESS"):
            (tmp_path / "series/2026-11-01/data/_SUCCESS").unlink(missing_ok=True)

    with observed(prune):
        ending = embed(nightly(), 1)
    assert ending.code == ExitCode.DONE
    assert "changes" not in ending.summary
    assert any("no changes are made" in message for message in caplog.messages)
    latest = Series(str(tmp_path / "series")).latest()
    assert latest is not None
    assert latest.dataset == "2026-11-02"


def test_changes_need_a_base(nightly: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="reuse.changes.*needs reuse.base"):
        parse_config(nightly(reuse={"changes": True}))


def test_a_prune_removes_changes_with_their_dataset_and_leaves_those_of_others(tmp_path: Path) -> None:
    days = [f"2026-11-2{day}" for day in range(1, 5)]
    before, after = changed_in_every_way()
    datasets = [made(str(tmp_path / day), (before, after)[at % 2]) for at, day in enumerate(days)]
    for new, old in itertools.pairwise(reversed(datasets)):
        between(new, old)
    series = Series(str(tmp_path))
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    removed = [each.name for each in series.prune(keep=2, now=later) if each.removed]
    assert removed == days[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == days[2:]
    kept = found_in(between(datasets[3], datasets[2]))
    assert {key: change for key, (change, _) in kept.items()} == {
        key: change for key, (change, _) in compared(datasets[3], datasets[2]).items()
    }
    assert (tmp_path / days[2] / "changes" / days[1] / "_SUCCESS").exists()


# The command line.


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, _ = nights(tmp_path / "series", *changed_in_every_way())
    output = {"path": str(tmp_path / "series/{run_date}")}
    config = write_config(
        tmp_path / "nightly.yaml", {"source": {"docs": {"path": "/a/*.txt"}}, "output": output}
    )
    by_name = ["changes", NEW, "--since", OLD, "--config", str(config), "--json"]
    assert cli.main([*by_name, "--dry-run"]) == ExitCode.DONE
    counted = json.loads(capsys.readouterr().out)
    assert (counted["added"], counted["updated"], counted["deleted"]) == (1, 2, 6)
    assert not Path(new.layout.all_changes).exists()
    assert cli.main(["changes", new.layout.root, "--since", OLD, "--json"]) == ExitCode.DONE
    made_now = json.loads(capsys.readouterr().out)
    assert made_now["folder"] == f"{new.layout.root}/changes/{OLD}"
    assert cli.main(by_name) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == made_now


def test_overrides_need_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["changes", str(tmp_path), "--since", OLD, "--set", "a.b=c"]) == ExitCode.CONFIG
    assert "name the config, too" in capsys.readouterr().err


def test_what_is_spread_over_processes_can_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does what Ray would with a function, its items and its results."""

    def travel(thing: Any) -> Any:
        return pickle.loads(pickle.dumps(thing))

    def elsewhere(function: Any, items: Any, *_: int) -> Iterator[Any]:
        yield from (travel(travel(function)(travel(item))) for item in items)

    monkeypatch.setattr("pipeline.driver.changes.spread_out", elsewhere)
    new, old = nights(tmp_path, *changed_in_every_way(chunked=True), Kind(chunked=True))
    assert_like_a_full_comparison(new, old)


@pytest.mark.full
@pytest.mark.usefixtures("ray_cluster")
def test_many_shards_are_spread_over_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread_out, "MANY", 1)
    new, old = nights(tmp_path, *changed_in_every_way())
    assert_like_a_full_comparison(new, old)
