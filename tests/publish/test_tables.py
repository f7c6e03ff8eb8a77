"""Tests that tables show exactly the dataset that readers follow: one night or the other, never both."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.config.sections import Table
from pipeline.errors import ConfigError, ExitCode, StoppedError
from pipeline.nightly import Series
from pipeline.publish import delta, iceberg, named_by_tables, publish
from pipeline.publish import tables as tables_module
from pipeline.publish.contents import contents_of, table_columns
from tests.flow import use_no_ray
from tests.nightly.test_series import LATER, fates
from tests.publish import nights
from tests.publish.nights import DATES, NAMES, TARGETS

KINDS = pytest.mark.parametrize("kind", ["delta", "iceberg"])
Opened = Callable[[], Any]


@pytest.fixture
def tables(kind: str, catalog: None) -> dict[str, Table]:
    pytest.importorskip("deltalake")
    return {kind: Table.model_validate(TARGETS[kind])}


@pytest.fixture
def opened(kind: str, series: Path, tables: dict[str, Table]) -> Opened:
    """Opens the table."""
    if kind == "delta":
        return lambda: delta.opened(Series(str(series)), "publish.delta")
    return lambda: iceberg.opened(tables["iceberg"], "publish.iceberg")


def shown(kind: str, series: Path) -> list[set[str]]:
    """Returns the datasets whose files each version of a table names, oldest first."""
    if kind == "delta":
        from deltalake import DeltaTable

        versions = range(DeltaTable(str(series)).version() + 1)
        found = [DeltaTable(str(series), version=version).file_uris() for version in versions]
    else:
        table = nights.iceberg_table()
        found = [
            [task.file.file_path for task in table.scan(snapshot_id=each.snapshot_id).plan_files()]
            for each in table.snapshots()
        ]
    return [{path.split("/")[-3] for path in paths} for paths in found]


def files(opened: Opened) -> set[str]:
    with opened() as found:
        return {path.rpartition("/")[2] for path in found.live()}


@KINDS
def test_each_night_is_read_by_every_engine_and_so_is_a_rollback(
    kind: str, series: Path, made: Path, tmp_path: Path, tables: dict[str, Table]
) -> None:
    config = str(nights.config_at(made, tmp_path, str(series), kind))
    followed = Series(str(series))
    for name in (*NAMES, NAMES[0], NAMES[2]):
        followed.rollback(name)
        for _ in range(2):  # the second finds nothing to do
            assert cli.main(["publish", config]) == ExitCode.DONE
        nights.assert_reads(kind, str(series), nights.of_dataset(str(series / name)))
    assert shown(kind, series) == [{name} for name in (*NAMES, NAMES[0], NAMES[2])]


@KINDS
def test_a_run_publishes_what_readers_follow(
    kind: str, series: Path, made: Path, tmp_path: Path, tables: dict[str, Table],
    monkeypatch: pytest.MonkeyPatch, opened: Opened,
) -> None:  # fmt: skip
    use_no_ray(monkeypatch)
    config = nights.config_at(made, tmp_path, str(series), kind)
    assert cli.main(["nightly", str(config), "--run-date", NAMES[2], "--quiet"]) == ExitCode.DONE
    assert shown(kind, series) == [{NAMES[2]}]
    Series(str(series)).rollback(NAMES[1])
    assert cli.main(["nightly", str(config), "--run-date", NAMES[2], "--quiet"]) == ExitCode.DONE
    assert shown(kind, series)[-1] == {NAMES[1]}


@KINDS
def test_an_older_night_by_hand_and_a_dry_run(
    kind: str, series: Path, made: Path, tmp_path: Path, tables: dict[str, Table],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = str(nights.config_at(made, tmp_path, str(series), kind))

    def told(*arguments: str) -> list[dict[str, Any]]:
        assert cli.main(["publish", config, "--json", *arguments]) == ExitCode.DONE
        return list(json.loads(capsys.readouterr().out)["tables"])

    wanted = {"table": kind, "format": kind, "dataset": NAMES[0], "files": 4, "rows": 40}
    assert told("--dataset", NAMES[0], "--dry-run") == [wanted | {"state": "would publish"}]
    assert not (series / "_delta_log").exists()
    assert told("--dataset", NAMES[0]) == [wanted | {"state": "published"}]
    assert told("--dataset", NAMES[0]) == [wanted | {"state": "unchanged"}]
    assert [each["dataset"] for each in told("--dry-run")] == [NAMES[2]]
    assert cli.main(["publish", config]) == ExitCode.DONE
    line = capsys.readouterr().out
    assert line.split() == [kind, "published", f"{NAMES[2]}:", "48", "rows", "in", "6", "files"]


@KINDS
@pytest.mark.parametrize("exists", [False, True])
def test_of_two_publishers_one_wins_and_the_other_notices(opened: Opened, series: Path, exists: bool) -> None:
    first, second, third = (contents_of(Series(str(series)), name) for name in NAMES)
    if exists:
        with opened() as found:
            assert found.replace(first)
    with opened() as one, opened() as other:
        assert one.replace(third)
        assert not other.replace(second)
    with opened() as found:
        assert found.holds(third)
        assert not found.holds(second)


@KINDS
def test_a_publisher_that_was_overtaken_shows_what_is_followed_now(
    series: Path, tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Between the look at LATEST.json and the commit, another run moves it on, and publishes."""
    followed = Series(str(series))
    followed.rollback(NAMES[0])
    rivals: list[str] = []

    def overtaken(*told: Any) -> Any:
        found = contents_of(*told)
        if not rivals:
            rivals.append(found.name)
            followed.rollback(NAMES[1])
            publish(followed, tables)
        return found

    monkeypatch.setattr(tables_module, "contents_of", overtaken)
    [told] = publish(followed, tables)
    assert (rivals, told.dataset, told.state) == ([NAMES[0]], NAMES[1], "unchanged")
    assert shown(kind, series) == [{NAMES[1]}]


RACES = pytest.mark.parametrize(("publishers", "seed"), [(2, 1), pytest.param(20, 2, marks=pytest.mark.full)])


@KINDS
@RACES
@pytest.mark.timeout(1800)
def test_publishers_race_and_are_killed(
    kind: str, publishers: int, seed: int, series: Path, made: Path, tmp_path: Path,
    tables: dict[str, Table], opened: Opened,
) -> None:  # fmt: skip
    """Some are killed at any moment. Each night gets one version of the table, and none mixes nights."""
    config, dice = str(nights.config_at(made, tmp_path, str(series), kind)), random.Random(seed)
    followed = Series(str(series))
    command = [sys.executable, "-m", "pipeline", "publish", config, "--quiet"]
    for name in NAMES[:2] if publishers < 10 else NAMES:
        followed.rollback(name)
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(publishers)]
        for process in running[: publishers // 2]:
            time.sleep(dice.uniform(0, 3 / publishers))
            process.send_signal(signal.SIGKILL)
        codes = [process.wait() for process in running]
        assert set(codes[publishers // 2 :]) <= {ExitCode.DONE, ExitCode.RETRYABLE}  # SQLite may be locked
        publish(followed, tables)
        assert files(opened) == {path.name for path in (series / name / "data").glob("*.parquet")}
    assert shown(kind, series) == [{name} for name in (NAMES[:2] if publishers < 10 else NAMES)]


# Columns.


def with_columns(wanted: Any, *columns: pa.Field) -> Any:
    return replace(wanted, columns=pa.schema(columns))


@KINDS
def test_a_new_column_is_added_and_one_that_is_gone_leaves(opened: Opened, series: Path) -> None:
    first, second, _ = (contents_of(Series(str(series)), name) for name in NAMES)
    with opened() as found:
        found.replace(first)
    last = max(int(each.metadata[b"PARQUET:field_id"]) for each in first.columns)
    extra = pa.field("later", pa.timestamp("us"), metadata={b"PARQUET:field_id": str(last + 50).encode()})
    with opened() as found:
        wanted = with_columns(second, extra, *(each for each in second.columns if each.name != "topic"))
        found.refuse(wanted)
        assert found.replace(wanted)
    with opened() as found:
        names = [
            each.name for each in (found._table if hasattr(found, "_table") else found.table).schema().fields
        ]
        assert names == wanted.columns.names
        assert found.replace(first)
        assert not found.holds(second)


@KINDS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("type", "key is int64 there, .*string here"),
        ("dimension", "vectors have 16 dimensions there, 8 here"),
    ],
)
def test_other_types_and_dimensions_are_refused(
    opened: Opened, series: Path, change: str, message: str
) -> None:
    first, second, _ = (contents_of(Series(str(series)), name) for name in NAMES)
    with opened() as found:
        found.replace(first)
    wanted = replace(second, dimension=8)
    if change == "type":
        columns = [each.with_type(pa.string()) if each.name == "key" else each for each in second.columns]
        wanted = with_columns(second, *columns)
    with opened() as found, pytest.raises(ConfigError, match=f"has columns that {NAMES[1]} has .*{message}"):
        found.refuse(wanted)


@pytest.mark.parametrize("kind", ["iceberg"])
def test_columns_that_are_numbered_otherwise_are_refused(opened: Opened, series: Path) -> None:
    first, second, _ = (contents_of(Series(str(series)), name) for name in NAMES)
    with opened() as found:
        found.replace(first)
    key, topic, *others = second.columns
    wanted = with_columns(
        second, key.with_metadata(topic.metadata), topic.with_metadata(key.metadata), *others
    )
    with (
        opened() as found,
        pytest.raises(ConfigError, match=f"numbers columns otherwise than {NAMES[1]}"),
    ):
        found.refuse(wanted)


def test_columns_of_tables_may_be_null_and_lists_have_no_size() -> None:
    columns = pa.schema(
        [
            pa.field("embedding", pa.list_(pa.float32(), 3), nullable=False),
            pa.field("at", pa.timestamp("us", "Europe/Berlin")),
            pa.field("map", pa.map_(pa.string(), pa.struct([pa.field("a", pa.int8(), nullable=False)]))),
        ]
    )
    found = table_columns(columns, "here")
    assert found.field("embedding") == pa.field("embedding", pa.list_(pa.float32()))
    assert found.field("at").type == pa.timestamp("us", "UTC")
    assert found.field("map").type == pa.map_(pa.string(), pa.struct([("a", pa.int8())]))
    with pytest.raises(ConfigError, match="column 'n' has a type that no table has .*uint32"):
        table_columns(pa.schema([("n", pa.uint32())]), "here")


@pytest.mark.parametrize("kind", ["iceberg"])
def test_shards_without_field_ids_are_read_by_their_names(
    series: Path, tables: dict[str, Table], kind: str
) -> None:
    """Takes the ids from the first night, as an older version has left it; the second has them."""
    sizes = {}
    for shard in (series / NAMES[0] / "data").glob("*.parquet"):
        table = pq.read_table(shard)
        plain = nights.comparable(table)
        pq.write_table(plain, shard)
        sizes[shard.stem.removeprefix("part-")] = shard.stat().st_size
    manifest = pq.read_table(series / NAMES[0] / "manifest.parquet")
    at = manifest.column_names.index("file_bytes")
    sized = pa.array([sizes[split] for split in manifest["split_id"].to_pylist()], pa.int64())
    pq.write_table(
        manifest.set_column(at, manifest.schema.field(at), sized), series / NAMES[0] / "manifest.parquet"
    )
    for name in NAMES[:2]:
        publish(Series(str(series)), tables, name)
        nights.assert_reads(kind, str(series), nights.of_dataset(str(series / name)))


# Who removes files.


@KINDS
def test_prune_keeps_what_a_table_shows(series: Path, tables: dict[str, Table], kind: str) -> None:
    followed = Series(str(series))
    publish(followed, tables, NAMES[0])
    # A log in the series counts, even if the config does not name it any more.
    kept = named_by_tables(followed, {} if kind == "delta" else tables)
    assert kept == {NAMES[0]: f"the table {kind} shows it"}
    told = fates(followed.prune(keep=1, now=LATER, shown=kept, dry_run=True))
    assert told[NAMES[0]] == f"kept: the table {kind} shows it"
    publish(followed, tables)
    assert named_by_tables(followed, tables) == {NAMES[2]: f"the table {kind} shows it"}
    assert (
        "kept"
        not in fates(followed.prune(keep=1, now=LATER, shown=named_by_tables(followed, tables)))[NAMES[0]]
    )
    assert not (series / NAMES[0]).exists()
    nights.assert_reads(kind, str(series), nights.of_dataset(str(series / NAMES[2])))


@pytest.mark.parametrize("kind", ["iceberg"])
def test_a_tag_keeps_a_dataset(series: Path, tables: dict[str, Table]) -> None:
    followed = Series(str(series))
    publish(followed, tables, NAMES[0])
    table = nights.iceberg_table()
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "audited").commit()
    publish(followed, tables)
    assert set(named_by_tables(followed, tables)) == {NAMES[0], NAMES[2]}


@pytest.mark.parametrize("kind", ["delta"])
def test_vacuum_removes_nothing(series: Path, tables: dict[str, Table]) -> None:
    from deltalake import DeltaTable

    followed = Series(str(series))
    for name in NAMES:
        publish(followed, tables, name)
    before = sorted(path for path in series.rglob("*") if "_delta_log" not in path.parts)
    for full in (False, True):
        assert DeltaTable(str(series)).vacuum(dry_run=False, full=full) == []
    assert sorted(path for path in series.rglob("*") if "_delta_log" not in path.parts) == before
    # And a commit of another kind on top changes nothing: the table shows the night already.
    assert [each.state for each in publish(followed, tables, NAMES[2])] == ["unchanged"]


@pytest.mark.parametrize("kind", ["iceberg"])
def test_engines_are_told_not_to_collect_files(series: Path, tables: dict[str, Table]) -> None:
    publish(Series(str(series)), tables)
    assert nights.iceberg_table().properties["gc.enabled"] == "false"


@KINDS
def test_what_is_being_removed_is_not_published(series: Path, tables: dict[str, Table], kind: str) -> None:
    followed = Series(str(series))
    assert followed.dataset(NAMES[0]).begin_removal()
    with pytest.raises(StoppedError, match="is being removed, and can't be shown by a table"):
        publish(followed, tables, NAMES[0])
    assert named_by_tables(followed, tables) == {}


# What the log says.


@pytest.mark.parametrize("kind", ["delta"])
def test_the_log_has_relative_paths_statistics_and_the_night(series: Path, tables: dict[str, Table]) -> None:
    from deltalake import DeltaTable

    publish(Series(str(series)), tables, NAMES[1])
    table = DeltaTable(str(series))
    assert table.transaction_version(str(series)) == 20261125
    told = table.history(1)[0]
    assert told["albert_embed.dataset"] == NAMES[1]
    assert len(told["albert_embed.vector_digest"]) == 64
    adds = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    assert all(each["path"].startswith(f"{NAMES[1]}/data/part-") for each in adds)
    rows = nights.of_dataset(str(series / NAMES[1]))
    assert sum(each["num_records"] for each in adds) == rows.num_rows
    for each in adds:
        there = pq.read_table(series / each["path"])
        for name in ("source_file", "source_row"):
            values = there[name].to_pylist()
            assert each[f"min.{name}"] <= min(values)
            assert max(values) <= each[f"max.{name}"]


@pytest.mark.parametrize("kind", ["iceberg"])
def test_files_are_skipped_by_their_place_in_the_source(series: Path, tables: dict[str, Table]) -> None:
    publish(Series(str(series)), tables, NAMES[0])
    scan = nights.iceberg_table().scan("source_file = 'docs/0.parquet' and source_row < 10")
    assert len(list(scan.plan_files())) == 1
    assert scan.to_arrow()["source_row"].to_pylist() == list(range(10))


@pytest.mark.parametrize("kind", ["delta"])
def test_a_log_of_more_than_a_hundred_commits_has_a_checkpoint(
    series: Path, tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = Series(str(series))
    monkeypatch.setattr(delta, "PROPERTIES", delta.PROPERTIES | {"delta.checkpointInterval": "3"})
    for number in range(8):
        publish(followed, tables, NAMES[number % 3])
    names = {path.name for path in (series / "_delta_log").iterdir()}
    assert "_last_checkpoint" in names
    assert any(".checkpoint" in name for name in names)
    nights.assert_reads("delta", str(series), nights.of_dataset(str(series / NAMES[1])))


# Which engine reads which lists.


def yes_or_no(kind: str, engine: str, lists: str) -> str:
    if (kind, engine) not in nights.READERS:
        return "-"
    return "no" if lists == "fixed" and (kind, engine) in nights.ONLY_PLAIN else "yes"


def test_the_page_says_which_engine_reads_which_lists() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()
    for engine in {engine for _, engine in nights.READERS}:
        cells = [
            yes_or_no(kind, engine, lists)
            for kind in ("folder", "delta", "iceberg")
            for lists in ("fixed", "plain")
        ]
        assert f"| {engine} | {' | '.join(cells)} |\n" in page


@pytest.fixture(scope="session")
def fixed(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The series of nights whose shards have lists of a fixed size."""
    return nights.make(tmp_path_factory.mktemp("fixed"), tiny).parent / "series"


@pytest.mark.parametrize(("kind", "engine"), nights.READERS)
def test_which_engines_read_lists_of_a_fixed_size(
    kind: str, engine: str, fixed: Path, tmp_path: Path, catalog: None
) -> None:
    series = str(shutil.copytree(fixed, tmp_path / "lists"))
    if kind in TARGETS:
        publish(Series(series), {kind: Table.model_validate(TARGETS[kind])})
    wanted = nights.of_dataset(f"{series}/{DATES[2]}")
    if (kind, engine) in nights.ONLY_PLAIN:
        with pytest.raises(Exception, match=r"Array\(Float32|FixedSizeList"):
            nights.READERS[kind, engine](series)
    else:
        assert nights.comparable(nights.READERS[kind, engine](series)).equals(wanted)


@pytest.mark.parametrize("engine", [engine for kind, engine in nights.READERS if kind == "folder"])
def test_which_engines_read_plain_lists_in_the_folder(engine: str, series: Path) -> None:
    """Tables with plain lists are read by each engine above."""
    found = nights.READERS["folder", engine](str(series))
    assert nights.comparable(found).equals(nights.of_dataset(str(series / NAMES[2])))
