"""Plain text, a line a document: cut by byte ranges, without looking for line ends when planning.

A piece owns the lines that start in its range, so the ranges that pieces consume tile the file exactly:
each begins where the line before ended. A line ends with LF; a CR before it is dropped.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import Source
from pipeline.formats.piece import Piece, Raw, Span, Survey

LF, CR = 10, 13
SAMPLES, SAMPLE_BYTES = 8, 1 << 16
CHUNK = 1 << 16


def survey(file: pa.NativeFile, size: int, _: Source) -> Survey:
    """How the file can be cut; reads a few samples, for rows are not counted but estimated.

    The sample with the shortest lines decides: too many splits cost little, too many rows in one much.
    """
    shortest = float(size)
    for number in range(SAMPLES):
        file.seek(size * number // SAMPLES)
        sample = file.read(SAMPLE_BYTES)
        shortest = min(shortest, len(sample) / (sample.count(b"\n") + 1))
    rows = size / max(1.0, shortest)
    return Survey("bytes", pa.schema([]), (Span(0, size, rows, float(size)),) if size else ())


def read(file: pa.NativeFile, piece: Piece, _: Source) -> Raw:
    """The lines that start in [start, stop)."""
    start = _next_line(file, piece.start, piece.size)
    stop = max(start, _next_line(file, piece.stop, piece.size))
    file.seek(start)
    data = np.frombuffer(file.read_buffer(stop - start), np.uint8)
    texts, starts = _lines(data)
    return Raw(texts, pa.table({}), pa.array(starts + start), start, stop)


def _next_line(file: pa.NativeFile, position: int, size: int) -> int:
    """Where the first line begins that starts at or after a position."""
    if position == 0 or position >= size:
        return min(position, size)
    position -= 1  # a line that starts right here follows a LF right before
    file.seek(position)
    while chunk := file.read(CHUNK):
        found = int(chunk.find(b"\n"))
        if found >= 0:
            return position + found + 1
        position += len(chunk)
    return size


def _lines(data: npt.NDArray[np.uint8]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Lines as strings (not yet checked for UTF-8), and the offset where each starts."""
    stops = np.flatnonzero(data == LF)
    if len(data) and data[-1] != LF:
        stops = np.append(stops, len(data))
    starts = np.concatenate([np.zeros(min(1, len(stops)), np.int64), stops[:-1] + 1])
    ended = stops[stops < len(data)]
    dropped = ended[(ended > starts[: len(ended)]) & (data[ended - 1] == CR)] - 1
    keep = np.ones(len(data), np.bool_)
    keep[ended] = False
    keep[dropped] = False
    # Line ends are all that is left out: before line i there are i of them, and some CRs.
    edges = np.append(starts, len(data))
    left_out = np.minimum(np.arange(len(edges)), len(ended)) + np.searchsorted(dropped, edges)
    offsets, kept = pa.py_buffer(edges - left_out), pa.py_buffer(data[keep])
    return pa.LargeStringArray.from_buffers(len(starts), offsets, kept), starts
