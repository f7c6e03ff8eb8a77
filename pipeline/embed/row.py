"""Turns a split into a row that travels between stages, and runs each stage behind a boundary.

A row is a one-row table whose payload is borrowed and never copied. It has three kinds of columns:
`split_id`; `header`, a JSON object with the class of the content, all small values, and the dtype and shape
of each array; and a cell for each table and array. Every row has every column, so that rows of any stage, and
failures, are blocks of one schema.

The boundary means that a stage never raises: an exception would end the complete job. So a split's failure
travels on as data, and the later stages pass it on.
"""

import json
import os
import platform
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.dataset.record import START, Failure, ShardRecord
from pipeline.embed.split import EncodedSplit, PackedTable, ReadSplit
from pipeline.errors import ENDS, ExitCode, PipelineError, StartError, UnseenError
from pipeline.model.outputs import OUTPUTS, TOKEN_OUTPUTS, Values
from pipeline.ragged import Ragged
from pipeline.sanitize import redact
from pipeline.telemetry import liveness
from pipeline.telemetry.liveness import Heartbeat

Content = ReadSplit | EncodedSplit | ShardRecord | Failure
_CLASSES: dict[str, Any] = {kind.__name__: kind for kind in (ReadSplit, EncodedSplit, ShardRecord, Failure)}
_TABLES = ("rows", "rejects", "reused")
_ARRAYS = ("order", "ids", "lengths", "chunks", "second", "places", "too_large")
_OUTPUT, _LENGTHS = "output.", " lengths"
"""What stands before an output's name in the name of its cell, and behind it in that of its rows' lengths."""


def to_row(content: Content) -> pa.Table:
    """Makes a row of a stage's result."""
    values = {field.name: getattr(content, field.name) for field in fields(content)}
    outputs = _output_cells(values.pop("outputs", {}))
    tables = {name: values.pop(name).buffer for name in _TABLES if isinstance(values.get(name), PackedTable)}
    arrays = {name: values.pop(name) for name in _ARRAYS if isinstance(values.get(name), np.ndarray)}
    arrays |= outputs
    header = {
        "class": type(content).__name__,
        "arrays": {name: (_told(array.dtype), array.shape) for name, array in arrays.items()},
        "values": values,
    }
    cells = tables | arrays
    columns = {"split_id": pa.array([content.split_id]), "header": pa.array([json.dumps(header)])}
    return pa.table(columns | {name: to_cell(cells.get(name)) for name in _cell_names()})


def from_row(row: pa.Table) -> Content:
    """Returns the content that `to_row` made a row of."""
    return _content(row, _header(row))


def run_stage(
    stage: str, split_id: str, files: Sequence[str], work: Callable[[], Content], sentry: Heartbeat | None
) -> pa.Table:
    """Runs a stage's work on one split; whatever it raises becomes the split's failure.

    Args:
        files: the split's files, as `<source>/<file>`.
    """
    try:
        with liveness.working_on(sentry, split_id, stage):
            return to_row(work())
    except ENDS:
        raise
    except BaseException as error:  # the boundary: otherwise it would end the job of every other split
        return to_row(_failure(stage, split_id, files, error))


def run_on_row(
    stage: str, row: pa.Table, work: Callable[[Any], Content], sentry: Heartbeat | None
) -> pa.Table:
    """Runs a stage's work on the split that a row holds; a failure passes untouched."""
    header = _header(row)
    if header["class"] == Failure.__name__:
        return to_row(_content(row, header))
    split_id, files = row.column("split_id")[0].as_py(), source_files(header["values"]["pieces"])
    return run_stage(stage, split_id, files, lambda: work(_content(row, header)), sentry)


def source_files(pieces: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns `<source>/<file>` of each piece."""
    return [f"{piece['source']}/{piece['file']}" for piece in pieces]


def _failure(stage: str, split_id: str, files: Sequence[str], error: BaseException) -> Failure:
    if isinstance(error, PipelineError):
        stage = START if isinstance(error, StartError) else stage
        code, message = int(error.exit_code), str(error)
        files = error.files if isinstance(error, UnseenError) and error.files else files
    else:
        trace = "".join(traceback.format_exception(error))
        code, message = int(ExitCode.BUG), redact(f"a bug in this program: {error!r}\n{trace}")
    process = f"{platform.node()} {os.getpid()}"
    return Failure(split_id, tuple(files), stage, code, message, process, type(error).__name__)


def _header(row: pa.Table) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(row.column("header")[0].as_py())
    return header


def _content(row: pa.Table, header: Mapping[str, Any]) -> Content:
    kind, values = _CLASSES[header["class"]], header["values"]
    if kind is Failure:
        return Failure(**values | {"files": tuple(values["files"])})
    if kind is ShardRecord:
        return ShardRecord(**values)
    tables = {name: PackedTable(from_cell(row.column(name))) for name in _TABLES if _has(row, name)}
    arrays = {
        name: np.frombuffer(from_cell(row.column(name)), _dtype(dtype)).reshape(shape)
        for name, (dtype, shape) in header["arrays"].items()
    }
    outputs = _outputs(arrays)
    content: Content = kind(**values, **tables, **arrays, **({"outputs": outputs} if outputs else {}))
    return content


def _cell_names() -> list[str]:
    lengths = [f"{_OUTPUT}{name}{_LENGTHS}" for name in TOKEN_OUTPUTS]
    return [*_TABLES, *_ARRAYS, *(f"{_OUTPUT}{name}" for name in OUTPUTS), *lengths]


def _output_cells(outputs: Mapping[str, Values]) -> dict[str, npt.NDArray[Any]]:
    """Returns the arrays of outputs by the names of their cells; of ragged values also the rows' lengths."""
    cells = {}
    for name, values in outputs.items():
        if isinstance(values, Ragged):
            cells[f"{_OUTPUT}{name}{_LENGTHS}"] = values.lengths
        cells[f"{_OUTPUT}{name}"] = values.values if isinstance(values, Ragged) else values
    return cells


def _outputs(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Values]:
    """Takes the outputs out of the arrays of a row, as `_output_cells` made them."""
    found: dict[str, Values] = {}
    for name in OUTPUTS:
        values, lengths = (arrays.pop(f"{_OUTPUT}{name}{end}", None) for end in ("", _LENGTHS))
        if values is not None:
            found[name] = values if lengths is None else Ragged(values, lengths)
    return found


def _told(dtype: np.dtype[Any]) -> Any:
    """Returns a dtype as JSON can hold it."""
    return dtype.descr if dtype.names else dtype.str


def _dtype(told: Any) -> np.dtype[Any]:
    if isinstance(told, str):
        return np.dtype(told)
    return np.dtype([(name, kind, *map(tuple, shape)) for name, kind, *shape in told])


def _has(row: pa.Table, name: str) -> bool:
    return bool(row.column(name).null_count == 0)


def to_cell(buffer: pa.Buffer | npt.NDArray[np.generic] | None) -> pa.Array:
    """Makes a `large_binary` value that borrows a buffer or a contiguous array; null for None.

    Arrow's own ways (`pa.array([bytes])`, `scalar.as_buffer()`) copy the payload, which takes as long as
    writing it if the split is large.
    """
    if buffer is None:
        return pa.nulls(1, pa.large_binary())
    data = buffer if isinstance(buffer, pa.Buffer) else pa.py_buffer(buffer.reshape(-1).view(np.uint8))
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def from_cell(column: pa.Array | pa.ChunkedArray) -> pa.Buffer:
    """Returns the buffer behind the only value of a column."""
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    start, stop = np.frombuffer(array.buffers()[1], np.int64, 2, array.offset * 8)
    return array.buffers()[2].slice(int(start), int(stop - start))
