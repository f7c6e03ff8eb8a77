"""Buffers in and out of the one-row tables that travel between stages, without copies.

A cell is a `large_binary` value that borrows a buffer. Arrow's own ways (`pa.array([bytes])`,
`scalar.as_buffer()`) copy the payload, which for a large split costs as long as writing it.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def cell(buffer: pa.Buffer | npt.NDArray[np.generic] | None) -> pa.Array:
    """One value that borrows a buffer or a contiguous array; null for None."""
    if buffer is None:
        return pa.nulls(1, pa.large_binary())
    data = buffer if isinstance(buffer, pa.Buffer) else pa.py_buffer(buffer.reshape(-1).view(np.uint8))
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def uncell(column: pa.Array | pa.ChunkedArray) -> pa.Buffer:
    """The buffer behind the only value of a column."""
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    start, stop = np.frombuffer(array.buffers()[1], np.int64, 2, array.offset * 8)
    return array.buffers()[2].slice(int(start), int(stop - start))


def table_to_buffer(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def buffer_to_table(buffer: pa.Buffer) -> pa.Table:
    """The table in an Arrow IPC stream, borrowing it."""
    return pa.ipc.open_stream(buffer).read_all()
