"""Turns the content of a file into UTF-8, by its byte order mark or by the encoding that the config names.

A file in UTF-8 passes through as it is. Any other file is decoded from its start, a block at a time, and so
it is never cut by bytes. Bytes that are not text in its encoding become one byte that is not UTF-8: the row
with it is rejected or repaired as a row of a UTF-8 file is.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import chain

import pyarrow as pa

from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source.formats import signatures
from pipeline.source.formats.compression import blocks

UTF_8 = "utf-8"
MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""The byte order marks and their encodings; that of UTF-32 begins with that of UTF-16, and stands first."""
UNDECODABLE = "pipeline.undecodable"
"""The name of the error handler that marks what can't be decoded by a byte that is not UTF-8."""
_UNMARKED = (
    (re.compile(rb"(?:[\t\n\r -~]\0){4}"), "utf-16-le"),
    (re.compile(rb"(?:\0[\t\n\r -~]){4}"), "utf-16-be"),
)


def encoding_of(start: bytes, source: Source) -> str:
    """Returns the encoding of a file with this start; its byte order mark wins over the config."""
    return _marked(start) or source.encoding


def can_be_cut(file: pa.NativeFile, source: Source) -> bool:
    """Tells whether a plain file can be cut by bytes: only UTF-8 can, where any LF byte ends a line.

    Raises:
        SourceError: it is not text.
    """
    file.seek(0)
    start = file.read(signatures.LONGEST)
    file.seek(0)
    encoding = encoding_of(start, source)
    _refuse_other_content(start, encoding)
    return encoding == UTF_8


def content(file: pa.NativeFile, method: str | None, size: int, source: Source) -> Iterator[bytes]:
    """Yields the content of a file in blocks, as it was before compression, as UTF-8.

    Args:
        size: the stored size of the file.

    Raises:
        SourceError: the file is damaged or no text, or expands too much.
    """
    found = from_its_start(blocks(file, method, size))
    start = next(found)
    _refuse_other_content(start, encoding_of(start, source))
    yield from as_utf8(chain([start], found), source)


def as_utf8(data: Iterable[bytes], source: Source) -> Iterator[bytes]:
    """Yields the content of a file as UTF-8."""
    found = from_its_start(data)
    start = next(found)
    encoding = encoding_of(start, source)
    if encoding == UTF_8:
        yield from filter(None, chain([start], found))
        return
    mark = next((mark for mark, _ in MARKS if start.startswith(mark)), b"")
    decoder = codecs.getincrementaldecoder(encoding)(UNDECODABLE)
    texts = chain(map(decoder.decode, chain([start.removeprefix(mark)], found)), _last(decoder))
    yield from filter(None, (text.encode(errors=UNDECODABLE) for text in texts))


def from_its_start(data: Iterable[bytes]) -> Iterator[bytes]:
    """Yields blocks of which the first suffices to recognize the content, unless all is shorter."""
    start, found = b"", iter(data)
    for block in found:
        start += block
        if len(start) >= signatures.LONGEST:
            break
    yield start
    yield from found


def _refuse_other_content(start: bytes, encoding: str) -> None:
    """Refuses archives and other files that are not text, and UTF-16 without a mark.

    Raises:
        SourceError: it is such a file.
    """
    signatures.refuse_other_content(start)
    if encoding == UTF_8 and (name := unmarked(start)):
        raise SourceError(
            "looks like UTF-16 without a byte order mark",
            got="every other byte is zero",
            hint=f"set source.encoding to {name}",
        )


def unmarked(start: bytes) -> str | None:
    """Returns the kind of UTF-16 that a file without a mark is; as UTF-8, it would be text full of NULs."""
    return next((name for pattern, name in _UNMARKED if pattern.match(start)), None)


def _marked(start: bytes) -> str | None:
    return next((name for mark, name in MARKS if start.startswith(mark)), None)


def _last(decoder: codecs.IncrementalDecoder) -> Iterator[str]:
    yield decoder.decode(b"", final=True)


def _undecodable(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    assert isinstance(error, UnicodeEncodeError)
    return b"\xff" * (error.end - error.start), error.end


codecs.register_error(UNDECODABLE, _undecodable)
