"""Reads text files that are one document each, as their row 0. The planner does not open them."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.config.source import Source
from pipeline.source.formats import signatures
from pipeline.source.formats.compression import blocks, compression
from pipeline.source.formats.encoding import UTF_8, as_utf8, encoding_of, unmarked
from pipeline.source.formats.format import Format
from pipeline.source.formats.lines import MARK
from pipeline.source.piece import LONGEST_DOCUMENT, Piece, RawRows, Span, Survey

INFLATED = 4
"""The usual size of text over its compressed size. It only serves to size splits; `reader` bounds them."""


def survey(_: None, name: str, size: int, source: Source) -> Survey:
    """Returns a survey of one row, empty or not."""
    text_bytes = float(size * INFLATED if compression(name, source) else size)
    return Survey("rows", pa.schema([]), (Span(0, 1, 1, text_bytes, float(size)),))


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, _: pa.Schema) -> Iterator[RawRows]:
    """Yields the file as its only row; if it is not text or too long for a document, the row has a fault."""
    data = bytearray()
    for block in blocks(file, compression(pieces[0].file, source), pieces[0].size):
        data += block
        if len(data) > LONGEST_DOCUMENT:
            break
    start = bytes(data[: signatures.LONGEST])
    fault = "too_long" if len(data) > LONGEST_DOCUMENT else "not_text" if _is_no_text(start, source) else ""
    text = b"" if fault else b"".join(as_utf8([bytes(data)], source)).removeprefix(MARK)
    texts = pa.LargeStringArray.from_buffers(
        1, pa.py_buffer(np.array([0, len(text)], np.int64)), pa.py_buffer(text)
    )
    positions, faults = pa.array([0], pa.int64()), pa.array([fault])
    yield from (RawRows(texts, pa.table({}), positions, 0, 1, faults) for _ in pieces)


def _is_no_text(start: bytes, source: Source) -> bool:
    return bool(signatures.known(start) or (encoding_of(start, source) == UTF_8 and unmarked(start)))


FORMAT = Format(survey, read, opened=False, random_access=True)
