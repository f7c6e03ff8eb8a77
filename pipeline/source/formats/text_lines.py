"""Reads plain text, in which each line is a document."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.config.source import Source
from pipeline.source.formats import lines
from pipeline.source.formats.compression import compression, known_compression
from pipeline.source.formats.encoding import can_be_cut
from pipeline.source.formats.format import Format
from pipeline.source.piece import Piece, RawRows, Survey


def survey(file: pa.NativeFile, name: str, size: int, source: Source) -> Survey:
    """Finds how the file can be cut. Reads a few samples of a plain file; streams a compressed one."""
    method = known_compression(name, source)
    if method or not can_be_cut(file, source):
        return Survey("rows", pa.schema([]), lines.counted(file, size, method, source)[0], streamed=True)
    return Survey("bytes", pa.schema([]), lines.byte_span(size, list(lines.samples(file, size))))


def read(file: pa.NativeFile, pieces: Sequence[Piece], source: Source, _: pa.Schema) -> Iterator[RawRows]:
    """Yields the lines of each piece."""
    for found in lines.read(file, pieces, compression(pieces[0].file, source), source):
        yield RawRows(found.texts, pa.table({}), found.positions, found.start, found.stop)


FORMAT = Format(survey, read)
