"""Files that are compressed as a whole: read from their start, a little at a time.

Memory: a read-ahead of the compressed file and what the method itself needs (zstd and xz: by the file's own
settings, to a bound); never the whole content, whatever it inflates to.
"""

import bz2
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.sources import COMPRESSIONS, Source

READ_AHEAD = 8 << 20
"""Of a file that is read from its start: requests to an object store that are worth their latency."""
BLOCK = 1 << 20
XZ_MEMORY = 256 << 20


def compression(name: str, source: Source) -> str | None:
    """How a file is compressed as a whole; None where it is not."""
    if source.compression == "auto":
        return COMPRESSIONS.get(PurePosixPath(name).suffix)
    return None if source.compression == "none" else source.compression


def blocks(file: pa.NativeFile, method: str | None) -> Iterator[bytes]:
    """The content of a file in blocks, as it was before compression.

    Raises:
        SourceError: it is damaged, cut short, or compressed otherwise.
    """
    buffered = pa.BufferedInputStream(file, READ_AHEAD)
    with damage_named():
        if method == "xz":
            yield from _members(buffered, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY), b"\0")
            return
        if method == "bz2":
            yield from _members(buffered, bz2.BZ2Decompressor, b"")
            return
        stream = pa.CompressedInputStream(buffered, method) if method else buffered
        while block := stream.read(BLOCK):
            yield block


@contextmanager
def damage_named() -> Iterator[None]:
    """What libraries raise over damaged content becomes a `SourceError`; storage's own errors pass."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, lzma.LZMAError) as error:
        raise SourceError(
            "can't be read", got=first_line(error), hint="make it anew, or check source.compression"
        ) from None


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _members(
    file: pa.NativeFile, fresh: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor], padding: bytes
) -> Iterator[bytes]:
    """By hand: Arrow has no xz, Python's own has no bound of memory, and Arrow's bz2 no empty members.

    Args:
        fresh: makes a decompressor.  padding: what may lie between two members, or behind the last.
    """
    decompressor = fresh()
    member = False
    while data := file.read(BLOCK):
        while data:
            if decompressor.eof:
                data = data.lstrip(padding)
                if not data:
                    break
                decompressor = fresh()
            member = True
            yield decompressor.decompress(data, BLOCK)
            while not (decompressor.needs_input or decompressor.eof):
                yield decompressor.decompress(b"", BLOCK)
            data = decompressor.unused_data
    if member and not decompressor.eof:
        raise EOFError("it ends in the midst")
