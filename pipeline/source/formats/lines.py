"""Reads lines of text, whatever they hold: byte ranges of a plain file, or the stream of a compressed one.

The planner cuts a plain file without a search for line ends: a piece owns the lines that start in its range,
so the ranges that pieces consume tile the file exactly. The planner counts the lines of a compressed file
once, and numbers them. A line ends with LF; a CR before it is dropped, and so is a byte order mark.

Memory: the lines of a piece, or a block of a stream. A line of more than `LONGEST_DOCUMENT` fails its file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source.formats import bounds, memory
from pipeline.source.formats.encoding import content
from pipeline.source.formats.ranges import in_ranges
from pipeline.source.piece import LONGEST_DOCUMENT, Piece, Span

LF, CR = 10, 13
MARK = b"\xef\xbb\xbf"
OTHER_ENDS = (
    (b"\r", "CR", "convert it, as by: tr '\\r' '\\n' < FILE"),
    ("\x85".encode(), "NEL", "convert it to UTF-8 with LF"),
)
"""Ends of lines of the old Mac and of EBCDIC: the character, its name, and what to do."""
LONG_LINE = 1 << 12
"""The average bytes between such ends above which they are parts of text."""
SAMPLES, SAMPLE_BYTES = 8, 1 << 16
TAIL, CHUNK, MAX_CHUNK = 1 << 14, 1 << 16, 8 << 20
"""Bytes read after a range to find the end of its last line; then chunks that grow up to a bound."""
SPAN_ROWS, SPAN_BYTES = 1024, 1 << 18
"""The rows or bytes after which a span of a streamed file ends. Splits consist of such spans."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one piece: strings not yet checked for UTF-8, their positions, and the range consumed."""

    texts: pa.Array
    positions: pa.Array
    start: int
    stop: int


def samples(file: pa.NativeFile, size: int) -> Iterator[bytes]:
    """Yields complete lines from a few places of a plain file, or all lines of a small one."""
    places = SAMPLES if size > SAMPLES * SAMPLE_BYTES else 1
    for number in range(places):
        file.seek(size * number // places)
        sample = file.read(SAMPLE_BYTES if places > 1 else size)
        if number == 0:
            refuse_other_ends(sample)
        begin = sample.find(b"\n") + 1 if number else 0
        yield sample[begin:] if places == 1 else sample[begin : sample.rfind(b"\n") + 1] or sample


def byte_span(size: int, sampled: Sequence[bytes]) -> tuple[Span, ...]:
    """Describes a plain file as one span that can be cut anywhere. Its rows are estimated, not counted.

    The estimate uses the sample with the shortest lines: too many splits cost little, but too many rows in
    one cost much.
    """
    shortest = min(len(sample) / (sample.count(b"\n") + 1) for sample in sampled)
    return (Span(0, size, size / max(1.0, shortest), float(size), float(size)),) if size else ()


def counted(
    file: pa.NativeFile, size: int, method: str | None, source: Source
) -> tuple[tuple[Span, ...], pa.Array]:
    """Counts the lines of a file by streaming it once. Also returns the first, as a sample."""
    first: list[pa.Array] = []

    def counts() -> Iterator[tuple[int, int]]:
        for texts in streamed(file, method, size, source):
            first.extend([] if first else [texts])
            yield len(texts), _nbytes(texts)

    spans = row_spans(counts(), size)
    return spans, first[0] if first else pa.array([], pa.large_string())


def row_spans(counts: Iterable[tuple[int, int]], size: int) -> tuple[Span, ...]:
    """Makes spans from the (rows, bytes) of blocks of a stream; divides its stored size among them by bytes.

    Raises:
        SourceError: the file has more rows than a file of its size may have.
    """
    spans: list[tuple[int, int, int]] = []
    start = rows = text_bytes = 0
    for more_rows, more_bytes in counts:
        rows, text_bytes = rows + more_rows, text_bytes + more_bytes
        if rows >= SPAN_ROWS or text_bytes >= SPAN_BYTES:
            spans.append((start, start + rows, text_bytes))
            start, rows, text_bytes = start + rows, 0, 0
            bounds.refuse_rows(start, size)
    if rows:
        spans.append((start, start + rows, text_bytes))
    all_bytes = max(1, sum(text_bytes for *_, text_bytes in spans))
    return tuple(
        Span(start, stop, stop - start, float(text_bytes), size * text_bytes / all_bytes)
        for start, stop, text_bytes in spans
    )


def read(file: pa.NativeFile, pieces: Sequence[Piece], method: str | None, source: Source) -> Iterator[Lines]:
    """Yields the lines of each piece of one file, in order.

    Raises:
        SourceError: the file is damaged, or has a line of more than `LONGEST_DOCUMENT`.
    """
    if pieces[0].unit == "bytes":
        yield from (_range(file, piece) for piece in pieces)
        return
    tables = (pa.table({"line": texts}) for texts in streamed(file, method, pieces[0].size, source))
    for piece, table in in_ranges(tables, pieces):
        positions = pa.array(np.arange(piece.start, piece.stop, dtype=np.int64))
        yield Lines(table.column("line").combine_chunks(), positions, piece.start, piece.stop)


def streamed(file: pa.NativeFile, method: str | None, size: int, source: Source) -> Iterator[pa.Array]:
    """Yields all lines of a file, a block at a time."""
    tail: list[bytes] = []
    held, first = 0, True
    for block in content(file, method, size, source):
        if first and not held:
            refuse_other_ends(block)
        end = block.rfind(b"\n") + 1
        if end:
            yield split(np.frombuffer(b"".join([*tail, block[:end]]), np.uint8), first)[0]
            tail, held, first = [], 0, False
        tail.append(block[end:])
        held += len(block) - end
        refuse_longer(held)
    if held:
        yield split(np.frombuffer(b"".join(tail), np.uint8), first)[0]


def split(data: npt.NDArray[np.uint8], first: bool) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Splits data into lines: strings not yet checked for UTF-8, and the offset where each starts.

    Args:
        first: True if the data begins the file, perhaps with a byte order mark.
    """
    mark = len(MARK) if first and data[: len(MARK)].tobytes() == MARK else 0
    stops = np.flatnonzero(data == LF)
    if len(data) and data[-1] != LF:
        stops = np.append(stops, len(data))
    starts = np.concatenate([np.zeros(min(1, len(stops)), np.int64), stops[:-1] + 1])
    ended = stops[stops < len(data)]
    dropped = ended[(ended > starts[: len(ended)]) & (data[ended - 1] == CR)] - 1
    keep = np.ones(len(data), np.bool_)
    keep[ended] = False
    keep[dropped] = False
    keep[:mark] = False
    # Only line ends and the mark are left out: before line i there are i line ends, and some CRs.
    edges = np.append(starts, len(data))
    left_out = np.minimum(np.arange(len(edges)), len(ended)) + np.searchsorted(dropped, edges)
    left_out[1:] += mark
    offsets, kept = pa.py_buffer(edges - left_out), pa.py_buffer(data[keep])
    return pa.LargeStringArray.from_buffers(len(starts), offsets, kept), starts


def _range(file: pa.NativeFile, piece: Piece) -> Lines:
    """Reads the lines that start in a range of bytes, usually in one request that reads a little further."""
    base = max(piece.start - 1, 0)  # a line that starts with the range follows a LF right before
    file.seek(base)
    data: bytes | bytearray = file.read(piece.stop - base + TAIL)
    further = _chunks(file)

    def first_from(position: int) -> int:
        """Returns the start of the first line at or after a position."""
        nonlocal data
        if position == 0 or position >= piece.size:
            return min(position, piece.size)
        at = position - 1 - base
        while (found := data.find(b"\n", at)) < 0:
            at = len(data)
            refuse_longer(base + at - position)
            if not (more := next(further, b"")):
                return piece.size
            data = data if isinstance(data, bytearray) else bytearray(data)
            data += more
        return base + found + 1

    start = first_from(piece.start)
    stop = max(start, first_from(piece.stop))
    bounds.refuse_crowded(data.count(b"\n", start - base, stop - base))
    texts, starts = split(np.frombuffer(data, np.uint8)[start - base : stop - base], first=start == 0)
    return Lines(texts, pa.array(starts + start), start, stop)


def _chunks(file: pa.NativeFile) -> Iterator[bytes]:
    """Yields the next chunks of a file. They grow, since a long line should not take many requests."""
    size = CHUNK
    while chunk := file.read(size):
        yield chunk
        size = min(2 * size, MAX_CHUNK)


def first_line(file: pa.NativeFile) -> bytes:
    """Returns the first line of a plain file, without its end."""
    file.seek(0)
    data = bytearray()
    for chunk in _chunks(file):
        data += chunk
        if b"\n" in chunk:
            break
        refuse_other_ends(data)
        refuse_longer(len(data))
        if len(data) > memory.SMALL:
            memory.take_turn()
    return bytes(data.split(b"\n", 1)[0].removesuffix(b"\r"))


def refuse_longer(size: int) -> None:
    """Refuses a line of more than `LONGEST_DOCUMENT` bytes.

    Raises:
        SourceError: it has more.
    """
    if size > LONGEST_DOCUMENT:
        raise SourceError(
            "has a line that is too long", got=f"more than {LONGEST_DOCUMENT} bytes", hint="check the format"
        )


def refuse_other_ends(start: bytes | bytearray) -> None:
    """Refuses a file in which other characters stand where lines should end: all of it would be one line.

    Args:
        start: a first part of the file.

    Raises:
        SourceError: it has no LF, and many CRs or NELs with text behind them.
    """
    if b"\n" in start:
        return
    for end, name, hint in OTHER_ENDS:
        if start.rstrip(end).count(end) > len(start) // LONG_LINE:
            raise SourceError(f"its lines end with {name} alone", got="no LF", hint=hint)


def _nbytes(texts: pa.Array) -> int:
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1)
    return int(offsets[-1])
