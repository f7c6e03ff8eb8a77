"""Tests that a shard is complete, names its rejects, and belongs to the first writer."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema, telemetry
from pipeline.dataset import writer
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.record import ShardRecord, to_table
from pipeline.dataset.summary import reject_reasons
from pipeline.dataset.writer import Contents
from pipeline.errors import ExitCode, NonFiniteError
from pipeline.model.output_spec import OutputSpec
from pipeline.model.outputs import fields

COLUMNS = pa.schema([("id", pa.string())])


def contents(vectors: np.ndarray, rejected: int = 0) -> Contents:
    count = len(vectors)
    rows = pa.table(
        {
            "id": [f"r{i}" for i in range(count)],
            "n_tokens": pa.array(range(count), pa.int32()),
            "truncated": [i == 0 for i in range(count)],
            "text_hash": [i.to_bytes(16) for i in range(count)],
            "source_file": ["docs/f"] * count,
            "source_row": pa.array(range(count), pa.int64()),
        }
    ).cast(schema.rows_schema(COLUMNS))
    rejects = pa.Table.from_pylist(
        [
            {"source_file": "docs/f", "source_row": count + i, "reason": "null", "permanent": True}
            for i in range(rejected)
        ],
        schema=schema.REJECTS,
    )
    piece = {"source": "docs", "file": "f", "start": 0, "stop": count + rejected}
    spec = OutputSpec(dimension=vectors.shape[1])
    return Contents("s0", rows, {"embedding": vectors.astype(np.float32)}, rejects, [piece], spec)


def write(root: Path, what: Contents, attempt: str = "a") -> ShardRecord:
    figures = {
        "computed_tokens": 9, "padded_tokens": 9, "text_bytes": 8, "read_bytes": 8,
        "read_seconds": 1.0, "tokenize_seconds": 2.0,
        "encode_seconds": 3.0, "idle_seconds": 1.0, "cache_hits": 5, "cache_misses": 4, "attempt": attempt,
    }  # fmt: skip
    return writer.write(Dataset(str(root)), what, figures)


def test_of_a_document_in_windows_none_stays_where_one_is_bad(tmp_path: Path) -> None:
    """Three documents have five windows; one of the second is not finite, that of the last did not fit."""
    what = contents(np.arange(10).reshape(5, 2))
    rows = what.rows.set_column(
        what.rows.column_names.index("source_row"), "source_row", pa.array([0, 1, 1, 1, 2], pa.int64())
    )
    for name, values in (("chunk", [0, 0, 1, 2, 0]), ("char_start", [0] * 5), ("char_stop", [9] * 5)):
        rows = rows.append_column(name, pa.array(values, pa.int32()))
    what.outputs["embedding"][[2, 4]] = np.nan
    piece = {"source": "docs", "file": "f", "start": 0, "stop": 3}
    rows = rows.cast(schema.rows_schema(COLUMNS, chunked=True))
    too_large = np.array([False, False, False, False, True])
    record = write(tmp_path, replace(what, rows=rows, pieces=[piece], too_large=too_large))
    table = pq.read_table(tmp_path / "data/part-s0.parquet")
    assert table.column("source_row").to_pylist() == [0]
    rejects = pq.read_table(tmp_path / "rejects").sort_by("source_row").to_pylist()
    told = [(row["source_row"], row["reason"], row["permanent"]) for row in rejects]
    assert told == [(1, "non_finite_vector", False), (2, "out_of_memory", False)]
    assert (record.rows, record.rejects) == (1, 2)
    assert record.pieces == [piece | {"rows": 1, "rejects": 2}]


def test_a_shard_holds_rows_vectors_and_its_own_record(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    record = write(tmp_path, contents(vectors, rejected=2))
    path = tmp_path / "data" / "part-s0.parquet"
    table = pq.read_table(path, page_checksum_verification=True)
    assert table.schema.equals(
        schema.shard_schema(schema.rows_schema(COLUMNS), fields(OutputSpec(dimension=3)))
    )
    assert np.array_equal(np.stack(table.column("embedding").to_numpy()), vectors)
    dataset = Dataset(str(tmp_path))
    assert replace(record, write_seconds=0.0) == dataset.footer(dataset.shards()["s0"])
    assert record.write_seconds > 0
    assert abs(record.written_at - time.time()) < 60
    assert (record.rows, record.rejects, record.tokens, record.truncated) == (4, 2, 6, 1)
    assert record.pieces == [{"source": "docs", "file": "f", "start": 0, "stop": 6, "rows": 4, "rejects": 2}]
    assert record.file_bytes == path.stat().st_size
    assert record.content_digest == writer.content_digest(table)


def test_readers_divide_a_shard_by_row_groups_and_skip_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = contents(np.random.default_rng(0).normal(size=(100, 8)))
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 2000)
    record = write(tmp_path, what)
    shard = pq.ParquetFile(tmp_path / "data" / "part-s0.parquet")
    groups = [shard.metadata.row_group(number) for number in range(shard.num_row_groups)]
    assert len(groups) > 4
    paths = [groups[0].column(at).path_in_schema for at in range(groups[0].num_columns)]
    place = paths.index("source_row")
    ranges = [(each.column(place).statistics.min, each.column(place).statistics.max) for each in groups]
    assert [first for first, _ in ranges] == [0, *(last + 1 for _, last in ranges[:-1])]
    assert writer.content_digest(shard.read()) == record.content_digest


def test_a_record_counts_lengths_and_reasons(tmp_path: Path) -> None:
    vectors = np.ones((10, 3))
    vectors[9] = np.nan
    record = write(tmp_path, contents(vectors, rejected=2))
    assert record.token_histogram == [2, 1, 1, 1, 2, 2]  # of 0 to 8 tokens: up to 1, 2, 3, 4, 6, 8
    assert record.reasons == [{"reason": "non_finite_vector", "rows": 1}, {"reason": "null", "rows": 2}]
    manifest = to_table([record, replace(record, split_id="s1", reasons=[{"reason": "blank", "rows": 9}])])
    assert reject_reasons(manifest) == {"blank": 9, "null": 2, "non_finite_vector": 1}
    assert reject_reasons(manifest[:0]) == {}


def test_rejects_are_written_under_the_name_that_the_footer_tells(tmp_path: Path) -> None:
    record = write(tmp_path, contents(np.ones((1, 3)), rejected=2))
    rejects = pq.read_table(tmp_path / "rejects" / str(record.rejects_file))
    assert rejects.column("source_row").to_pylist() == [1, 2]


def test_a_split_of_rejects_alone_has_a_shard_without_rows(tmp_path: Path) -> None:
    record = write(tmp_path, contents(np.ones((0, 3)), rejected=3))
    table = pq.read_table(tmp_path / "data" / "part-s0.parquet")
    assert (table.num_rows, record.rejects) == (0, 3)
    assert table.schema.equals(
        schema.shard_schema(schema.rows_schema(COLUMNS), fields(OutputSpec(dimension=3)))
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_rejects_its_row_alone(tmp_path: Path, bad: float) -> None:
    vectors = np.ones((3, 2))
    vectors[1, 1] = bad
    record = write(tmp_path, contents(vectors))
    assert (record.rows, record.rejects) == (2, 1)
    assert pq.read_table(tmp_path / "data" / "part-s0.parquet")["source_row"].to_pylist() == [0, 2]
    rejects = pq.read_table(tmp_path / "rejects" / str(record.rejects_file)).to_pylist()
    told = [(row["source_row"], row["reason"], row["permanent"]) for row in rejects]
    assert told == [(1, "non_finite_vector", False)]
    assert record.transient == 1  # so that the next night, or `retry-rejects`, tries it again


@pytest.mark.parametrize(("rows", "bad"), [(8, 8), (120, 48), (1000, 8), (1599, 8)])
def test_so_many_vectors_that_are_not_finite_are_a_devices_fault(tmp_path: Path, rows: int, bad: int) -> None:
    vectors = np.ones((rows, 2))
    vectors[:bad, 0] = np.nan
    with pytest.raises(NonFiniteError, match=f"NaN or infinity .got {bad} of {rows} vectors") as raised:
        write(tmp_path, contents(vectors))
    assert raised.value.exit_code == ExitCode.RETRYABLE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rows", "bad"), [(7, 7), (1600, 8), (2000, 10)])
def test_a_few_are_rejects(tmp_path: Path, rows: int, bad: int) -> None:
    vectors = np.ones((rows, 2))
    vectors[:bad, 0] = np.inf
    record = write(tmp_path, contents(vectors))
    assert (record.rows, record.transient) == (rows - bad, bad)


def test_texts_that_did_not_fit_are_no_devices_fault(tmp_path: Path) -> None:
    """Eighty texts have no vector, which is NaN; seven of the other twenty vectors are not finite."""
    vectors = np.full((100, 2), np.nan)
    vectors[80:93] = 1.0
    record = write(tmp_path, replace(contents(vectors), too_large=np.arange(100) < 80))
    reasons = [{"reason": "non_finite_vector", "rows": 7}, {"reason": "out_of_memory", "rows": 80}]
    assert (record.rows, record.reasons) == (13, reasons)


def test_the_second_writer_takes_the_record_of_the_first(tmp_path: Path) -> None:
    first = write(tmp_path, contents(np.ones((2, 3))), attempt="first")
    before = (tmp_path / "data" / "part-s0.parquet").stat()
    second = write(tmp_path, contents(np.ones((2, 3))), attempt="second")
    assert second == replace(first, write_seconds=0.0)
    after = (tmp_path / "data" / "part-s0.parquet").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_digest_sees_a_change_in_any_of_what_it_covers(tmp_path: Path) -> None:
    digests = set()
    for change in range(4):
        vectors = np.ones((2, 3), np.float32)
        vectors[1, 2] += change == 1
        what = contents(vectors)
        table = what.rows
        if change == 2:
            table = table.set_column(5, schema.SHARD_TAIL.field("source_row"), pa.array([0, 7], pa.int64()))
        if change == 3:
            table = table.set_column(3, schema.SHARD_TAIL.field("text_hash"), pa.array([b"x", b"y"]))
        digests.add(write(tmp_path / str(change), replace(what, rows=table, pieces=[])).content_digest)
    assert len(digests) == 4


def test_storage_retries_of_the_reader_and_of_the_writer_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(str(tmp_path))
    create = dataset.storage._create

    def at_the_second_try(path: str, data: bytes) -> None:
        telemetry.count_retry("SlowDown")
        create(path, data)

    monkeypatch.setattr(dataset.storage, "_create", at_the_second_try)
    telemetry.count_retry("of a split before")
    figures = {
        "computed_tokens": 9, "padded_tokens": 9, "text_bytes": 8, "read_bytes": 8,
        "read_seconds": 1.0, "tokenize_seconds": 2.0,
        "encode_seconds": 3.0, "idle_seconds": 1.0, "cache_hits": 5, "cache_misses": 4,
        "attempt": "a", "storage_retries": 5,
    }  # fmt: skip
    record = writer.write(dataset, contents(np.ones((3, 2)), rejected=1), figures)
    assert record.storage_retries == 5 + 2  # the reject file's, the shard's
    [info] = dataset.shards().values()
    assert dataset.footer(info).storage_retries == 5 + 1


def digested(column: pa.Array) -> bytes:
    return b"".join(map(bytes, writer._content(column)))


def test_an_output_of_texts_is_digested_by_its_bytes_and_lengths() -> None:
    """NumPy would give the addresses of strings, which differ from process to process."""
    assert digested(pa.array([b"one", b"two"])) == b"onetwo"
    assert digested(pa.array(["one", "two"])).endswith(b"onetwo")
    alike = [["on", "etwo"], ["onet", "wo"], ["", "onetwo"]]
    lists = [[["on", "etwo"], []], [["on"], ["etwo"]]]
    found = {digested(pa.array(each)) for each in (*alike, *lists)}
    assert len(found) == len(alike) + len(lists)
    with pytest.raises(TypeError, match="an output can't be large_string"):
        digested(pa.array(["one"], pa.large_string()))
