"""Tests of the plan: splits cover the sources, ids are stable, all shards have one schema."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import telemetry
from pipeline.config.load import parse_config
from pipeline.errors import ConfigError, MissingError, SourceChangedError
from pipeline.model import checkpoint
from pipeline.plan import plan
from pipeline.plan.changes import moved_sources, no_longer_as_planned
from pipeline.plan.cut import cut_spans
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan
from pipeline.plan.sizing import payload_bytes, split_bytes
from pipeline.source import formats
from pipeline.source.formats import Span

Job = Callable[..., dict[str, Any]]


def make(values: dict[str, Any], digest: str = "digest") -> Plan:
    parsed = parse_config(values)
    return make_plan(parsed, checkpoint.resolve(parsed.model.name), digest)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 90_000)), max_size=20),
    max_rows=st.integers(1, 500),
    max_bytes=st.integers(1, 50_000),
)
def test_ranges_tile_the_spans_and_keep_the_caps(
    sizes: list[tuple[int, int]], max_rows: int, max_bytes: int
) -> None:
    spans, start = [], 0
    for rows, text_bytes in sizes:
        spans.append(Span(start, start + rows, rows, text_bytes))
        start += rows
    ranges = list(cut_spans(spans, max_rows, max_bytes))
    edges = [0, *(part.stop for part in ranges)]
    assert [part.start for part in ranges] == edges[:-1]
    assert edges[-1] == start
    assert all(0 < part.stop - part.start <= max_rows for part in ranges)


def test_splits_of_the_corpus(job: Job) -> None:
    made = make(job())
    splits = list(made.splits())
    assert [(piece.file, piece.start, piece.stop) for _, [piece] in splits] == [
        (f"{number}.parquet", start, start + 10) for number in range(3) for start in (0, 10)
    ]
    assert len({split_id for split_id, _ in splits}) == 6
    assert made.columns == pa.schema([("key", pa.int64()), ("topic", pa.string())])


def test_ids_depend_on_dataset_version_and_range_alone(job: Job, corpus: Path) -> None:
    before = make(job()).split_ids.to_pylist()
    assert make(job()).split_ids.to_pylist() == before
    assert not set(make(job(), "another").split_ids.to_pylist()) & set(before)
    pq.write_table(pq.read_table(corpus / "1.parquet"), corpus / "1.parquet")
    pq.write_table(pq.read_table(corpus / "1.parquet"), corpus / "10.parquet")
    after = make(job()).split_ids.to_pylist()
    assert len(set(before) & set(after)) == 4  # the splits of the two unchanged files


def test_a_plan_of_before_still_holds_and_sees_a_change(job: Job, corpus: Path) -> None:
    """Old versions of local files had only size and time; an upgrade must not make all files look changed."""
    parsed, made = parse_config(job()), make(job())
    versions = [version.partition("+")[0] for version in made.pieces.column("version").to_pylist()]
    at = made.pieces.schema.get_field_index("version")
    before = Plan(
        made.pieces.set_column(at, "version", pa.array(versions)), made.columns, made.dataset_digest
    )
    assert before.versions() != made.versions()
    assert moved_sources(parsed, before) == moved_sources(parsed, made) == []
    assert no_longer_as_planned(parsed, before) == {}
    [source] = parsed.source.values()
    for name in ("0.parquet", "1.parquet"):
        piece = before.piece("docs", name, 0)
        assert piece
        assert list(formats.read(str(corpus / name), [piece], source, before.columns))
    pq.write_table(pq.read_table(corpus / "1.parquet").slice(1), corpus / "1.parquet")
    assert moved_sources(parsed, before) == ["docs/1.parquet"]
    with pytest.raises(SourceChangedError):
        list(formats.read(str(corpus / "1.parquet"), [piece], source, before.columns))


def test_a_file_rewritten_with_its_size_and_time_gets_splits_of_its_own(job: Job, corpus: Path) -> None:
    """Otherwise a night would copy the vectors of its old text."""
    before, path = make(job()), corpus / "1.parquet"
    status, data = path.stat(), path.read_bytes()
    while path.stat().st_ctime_ns == status.st_ctime_ns:
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    kept = set(before.split_ids.to_pylist()) & set(make(job()).split_ids.to_pylist())
    assert len(kept) == 4
    assert moved_sources(parse_config(job()), before) == ["docs/1.parquet"]


def test_a_plan_survives_its_file_and_knows_what_is_pending(job: Job) -> None:
    made = make(job())
    again = Plan.from_bytes(made.to_bytes())
    assert again.pieces.equals(made.pieces)
    assert (again.columns, again.dataset_digest) == (made.columns, made.dataset_digest)
    ids = made.split_ids.to_pylist()
    assert again.pending(ids[:4]).split_ids.to_pylist() == ids[4:]
    assert [split_id for split_id, _ in again.pending(ids[:4]).splits()] == ids[4:]
    assert list(again.pending(ids).splits()) == []


def test_a_plan_from_before_there_were_tables_is_read(job: Job) -> None:
    made = make(job())
    before = replace(made, pieces=made.pieces.drop_columns(list(plan.TABLE)))
    again = Plan.from_bytes(before.to_bytes())
    assert list(again.splits()) == list(made.splits())
    assert plan.planned_rows(again.pieces).to_pylist() == [10] * 6


def test_differing_columns_become_one_schema(job: Job, corpus: Path) -> None:
    for number, column in enumerate([pa.array([1], pa.int32()), pa.array([2], pa.int64()), None]):
        columns = {"key": pa.array([number], pa.int64()), "text": ["x"]}
        pq.write_table(
            pa.table(columns | ({} if column is None else {"topic": column})), corpus / f"{number}.parquet"
        )
    assert make(job()).columns.field("topic").type == pa.int64()


def test_a_file_that_does_not_fit_is_failed_and_named(job: Job, corpus: Path) -> None:
    pq.write_table(
        pa.table({"key": pa.array([1], pa.int64()), "text": ["x"], "topic": [True]}), corpus / "1.parquet"
    )
    (corpus / "2.parquet").write_bytes(b"PAR1 but no more")
    made = make(job())
    assert "do not fit" in made.failed_files["docs/1.parquet"]
    assert "is not a complete Parquet file" in made.failed_files["docs/2.parquet"]
    assert len(made.split_ids) == 2


def test_what_is_wrong_with_all_files_is_wrong_with_the_config(job: Job, corpus: Path) -> None:
    source = {"path": f"{corpus}/*.parquet", "text_column": "body"}
    with pytest.raises(ConfigError, match="none of its 3 files can be embedded"):
        make(job(source={"docs": source}))
    with pytest.raises(ConfigError, match="column 'topics' is in none of its files"):
        make(job(source={"docs": source | {"text_column": "text", "carry": ["topics"]}}))
    with pytest.raises(MissingError, match="no file here"):
        make(job(source={"docs": {"path": f"{corpus}/*.pq"}}))


def test_colliding_names_are_refused(job: Job, corpus: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "Embedding": [1]}), corpus / "0.parquet")
    source = {"path": f"{corpus}/0.parquet", "carry": ["Embedding"]}
    with pytest.raises(ConfigError, match="one name"):
        make(job(source={"docs": source}))


def test_several_sources_share_one_plan(job: Job, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    (tmp_path / "empty.txt").write_text("")
    sources = job()["source"] | {"lines": {"path": f"{tmp_path}/*.txt"}}
    made = make(job(source=sources))
    assert made.columns.names == ["id", "key", "topic"]
    assert len(made.split_ids) == 7
    assert set(made.versions()) >= {("lines", "empty.txt"), ("lines", "lines.txt"), ("docs", "0.parquet")}


def test_planning_opens_each_file_once(job: Job, corpus: Path) -> None:
    before = telemetry.requests["open"]
    make(job())
    assert telemetry.requests["open"] - before == len(list(corpus.glob("*.parquet"))) == 3


def test_carried_columns_count_for_the_size_of_a_split(job: Job, corpus: Path) -> None:
    heavy = [f"{row} " * 10_000 for row in range(20)]
    table = pq.read_table(corpus / "0.parquet").set_column(2, "topic", pa.array(heavy))
    pq.write_table(table, corpus / "0.parquet", use_dictionary=False)
    made = make(job(output={"rows_per_shard": 100, "max_split_bytes": 100_000}))
    assert sum(piece.file == "0.parquet" for _, [piece] in made.splits()) > 3


def test_what_the_largest_split_weighs_between_two_stages(job: Job, corpus: Path) -> None:
    """The payload has vectors, rows and tokens; small files give less than a split may hold."""
    parsed = parse_config(job())
    model = checkpoint.resolve(parsed.model.name)
    made = make_plan(parsed, model, "digest")
    small = payload_bytes(made, parsed, model)
    assert 10 * 4 * 16 < small < 100_000
    pieces = made.pieces.to_pylist()
    pieces[0] |= {"stop": 10**9, "stored_bytes": 10**12}
    large = plan.Plan(pa.Table.from_pylist(pieces, schema=made.pieces.schema), made.columns, "digest")
    rows = parsed.output.rows_per_shard
    assert payload_bytes(large, parsed, model) == rows * 4 * 16 + 2 * split_bytes(parsed, model)
