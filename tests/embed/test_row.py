"""Tests a split as a row: payloads pass without copies, and failures pass as data."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.record import Failure, ShardRecord
from pipeline.embed.encode import Encode
from pipeline.embed.row import from_cell, from_row, to_cell, to_row
from pipeline.embed.split import EncodedSplit, PackedTable, ReadSplit
from pipeline.embed.write import write_row
from pipeline.errors import ExitCode
from pipeline.ragged import Ragged
from tests import records
from tests.models_with_heads import with_tags
from tests.splits import first_read, first_split, written

JobValues = Callable[..., dict[str, Any]]


def test_every_stage_has_the_same_columns(job: JobValues) -> None:
    row, told = first_split(job())
    read = first_read(row, told)
    encoded = Encode(told)(read)
    assert read.schema == encoded.schema == write_row(encoded, told).schema


def test_a_failure_passes_the_stages_after_it(job: JobValues) -> None:
    row, told = first_split(job())
    broken = pa.table({"note": [row["note"][0].as_py().replace('"version": "', '"version": "not ')]})
    failure = written(Encode(told)(first_read(broken, told)), told)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.exit_code, failure.files) == (
        "read",
        ExitCode.INCOMPLETE,
        ("docs/0.parquet",),
    )
    assert "changed since it was planned" in failure.message


def test_a_cell_borrows_and_gives_back_the_same_memory() -> None:
    array = np.arange(1 << 22, dtype=np.float32)
    before = pa.total_allocated_bytes()
    table = pa.table({"vectors": to_cell(array)})
    buffer = from_cell(table.column("vectors"))
    assert pa.total_allocated_bytes() - before < 1024  # of 16 MiB
    assert buffer.address == array.ctypes.data
    assert buffer.size == array.nbytes
    assert np.array_equal(np.frombuffer(buffer, np.float32), array)


def test_a_cell_of_a_slice_is_found() -> None:
    both = pa.concat_arrays([to_cell(np.array([1, 2], np.int64)), to_cell(np.array([3], np.int64))])
    assert np.frombuffer(from_cell(both.slice(1)), np.int64).tolist() == [3]


def test_no_buffer_is_null_and_an_empty_one_is_not() -> None:
    assert to_cell(None).null_count == 1
    assert to_cell(np.empty(0, np.float32)).null_count == 0
    assert from_cell(to_cell(np.empty(0, np.float32))).size == 0


def test_reading_a_table_back_borrows_its_buffer() -> None:
    buffer = PackedTable.of(pa.table({"x": np.arange(1 << 20)})).buffer
    before = pa.total_allocated_bytes()
    table = PackedTable(buffer).table
    assert pa.total_allocated_bytes() - before < 4096
    data = table.column("x").chunk(0).buffers()[1]
    assert buffer.address <= data.address < buffer.address + buffer.size


def same(one: Any, other: Any) -> bool:
    """Tells whether two values of a field are equal."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)
    if isinstance(one, dict) and all(isinstance(value, np.ndarray) for value in one.values()):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


def there_and_back(content: ReadSplit | EncodedSplit | ShardRecord | Failure) -> None:
    back = from_row(pa.concat_tables([to_row(content)] * 2).combine_chunks().slice(1))
    assert type(back) is type(content)
    for field in fields(content):
        assert same(getattr(content, field.name), getattr(back, field.name)), field.name


def test_what_a_stage_returns_comes_back(job: JobValues) -> None:
    for long_text in ("truncate", "mean_of_chunks", "chunks"):
        row, told = first_split(job(model={"long_text": long_text}))
        read = first_read(row, told)
        encoded = Encode(told)(read)
        for each in (read, encoded, write_row(encoded, told)):
            there_and_back(from_row(each))
    there_and_back(records.record("s", rows=3))
    there_and_back(Failure("s", ("docs/a", "docs/\udce9"), "read", 3, "no \udce9", "node 1", "SourceError"))


def test_the_type_of_ids_is_told(job: JobValues) -> None:
    """The type is not guessed from the number of bytes: the same bytes could be ids of either type."""
    row, told = first_split(job())
    read = from_row(first_read(row, told))
    assert isinstance(read, ReadSplit)
    for kind in (np.uint16, np.int32):
        back = from_row(to_row(ReadSplit(**(vars(read) | {"ids": read.ids.astype(kind)}))))
        assert isinstance(back, ReadSplit)
        assert back.ids.dtype == kind
        assert np.array_equal(back.tokens.ids, read.ids)


def test_a_split_without_a_document_has_arrays_of_no_length(job: JobValues, corpus: Path) -> None:
    for path in corpus.iterdir():
        table = pq.read_table(path)
        pq.write_table(table.set_column(1, "text", pa.array([None] * len(table), pa.string())), path)
    row, told = first_split(job(model={"long_text": "mean_of_chunks"}))
    record = written(Encode(told)(first_read(row, told)), told)
    assert isinstance(record, ShardRecord)
    assert (record.rows, record.rejects) == (0, 10)


def test_outputs_of_tokens_pass_with_their_records(job: JobValues, tmp_path: Path) -> None:
    """The stages hand on places, and records of any number for each row."""
    model = with_tags(tmp_path / "model", ["O", "B-X"])
    row, told = first_split(job(model={"name": str(model), "outputs": ["entities", "tokens"]}))
    read = from_row(first_read(row, told))
    assert isinstance(read, ReadSplit)
    assert read.places is not None
    assert read.places.dtype.names == ("start", "stop", "joined")
    assert len(read.places) == len(read.ids)
    encoded = from_row(Encode(told)(first_read(row, told)))
    assert isinstance(encoded, EncodedSplit)
    again = from_row(to_row(encoded))
    assert isinstance(again, EncodedSplit)
    for name in ("entities", "tokens"):
        one, other = encoded.outputs[name], again.outputs[name]
        assert isinstance(one, Ragged)
        assert isinstance(other, Ragged)
        assert one.values.dtype == other.values.dtype
        assert np.array_equal(one.lengths, other.lengths)
        assert one.values.tobytes() == other.values.tobytes()
    assert encoded.outputs["tokens"].values["vector"].shape[1] == 16
