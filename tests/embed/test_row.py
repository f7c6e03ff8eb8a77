"""Payloads pass without copies."""

import numpy as np
import pyarrow as pa

from pipeline.embed.row import buffer_to_table, cell, table_to_buffer, uncell


def test_a_cell_borrows_and_gives_back_the_same_memory() -> None:
    array = np.arange(1 << 22, dtype=np.float32)
    before = pa.total_allocated_bytes()
    table = pa.table({"vectors": cell(array)})
    buffer = uncell(table.column("vectors"))
    assert pa.total_allocated_bytes() - before < 1024  # of 16 MiB
    assert buffer.address == array.ctypes.data
    assert buffer.size == array.nbytes
    assert np.array_equal(np.frombuffer(buffer, np.float32), array)


def test_a_cell_of_a_slice_is_found() -> None:
    both = pa.concat_arrays([cell(np.array([1, 2], np.int64)), cell(np.array([3], np.int64))])
    assert np.frombuffer(uncell(both.slice(1)), np.int64).tolist() == [3]


def test_no_buffer_is_null_and_an_empty_one_is_not() -> None:
    assert cell(None).null_count == 1
    assert cell(np.empty(0, np.float32)).null_count == 0
    assert uncell(cell(np.empty(0, np.float32))).size == 0


def test_reading_a_table_back_borrows_its_buffer() -> None:
    buffer = table_to_buffer(pa.table({"x": np.arange(1 << 20)}))
    before = pa.total_allocated_bytes()
    table = buffer_to_table(buffer)
    assert pa.total_allocated_bytes() - before < 4096
    data = table.column("x").chunk(0).buffers()[1]
    assert buffer.address <= data.address < buffer.address + buffer.size
