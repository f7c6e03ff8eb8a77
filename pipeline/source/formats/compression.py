"""Files that are compressed as a whole: read from their start, a little at a time.

Memory: a read-ahead of the compressed file and what the method itself needs (zstd and xz: by the file's own
settings, to a bound); never the whole content, whatever it expands to. What expands to more than any text
does is refused.
"""

import bz2
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa

from pipeline.config.source import COMPRESSIONS, Source
from pipeline.errors import SourceError
from pipeline.source.formats import bounds, memory

READ_AHEAD = 8 << 20
"""Of a file that is read from its start: requests to an object store that are worth their latency."""
BLOCK = 1 << 20
XZ_MEMORY = 256 << 20
FIRST_FED = 1 << 12
"""Of a new member: what lies behind its end comes back as a copy, so a small one must not be fed much."""
MAX_EMPTY = 10_000
"""Members without content: each takes as long as a small one with some."""


def compression(name: str, source: Source) -> str | None:
    """How a file is compressed as a whole; None where it is not."""
    if source.compression == "auto":
        return COMPRESSIONS.get(PurePosixPath(name).suffix)
    return None if source.compression == "none" else source.compression


def blocks(file: pa.NativeFile, method: str | None, size: int) -> Iterator[bytes]:
    """The content of a file in blocks, as it was before compression.

    Args:
        size: of the file, as it is stored.

    Raises:
        SourceError: it is damaged, cut short, or compressed otherwise; or its content is too large for it.
    """
    read = 0
    for block in _blocks(pa.BufferedInputStream(file, READ_AHEAD), method):
        read += len(block)
        if method:
            bounds.refuse_expansion(read, size)
        if read > memory.SMALL:
            memory.take_turn()
        if block:
            yield block


def _blocks(buffered: pa.NativeFile, method: str | None) -> Iterator[bytes]:
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
    except MemoryError:
        raise  # of all that goes on in this process: it says nothing of the file
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
    member = _Member(fresh())
    while data := file.read(BLOCK):
        view, at = memoryview(data), 0
        while at < len(data):
            if member.ended:
                if data[at] in padding:
                    at += 1
                    continue
                member = _Member(fresh(), member.empty_before + (not member.content))
            fed = view[at : at + member.step]
            yield from member.decompress(fed)
            at += len(fed) - member.unused
    if member.begun and not member.ended:
        raise EOFError("it ends in the midst")


class _Member:
    """One member of a compressed file.

    Args:
        empty_before: members of the file without content that came before it.
    """

    def __init__(
        self, decompressor: lzma.LZMADecompressor | bz2.BZ2Decompressor, empty_before: int = 0
    ) -> None:
        if empty_before > MAX_EMPTY:
            raise OSError(f"more than {MAX_EMPTY} of its members are empty")
        self._decompressor, self.empty_before = decompressor, empty_before
        self.step, self.begun, self.content = FIRST_FED, False, False

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """What so much more of the file becomes."""
        self.begun, self.step = True, min(2 * self.step, BLOCK)
        block = self._decompressor.decompress(data, BLOCK)
        self.content = self.content or bool(block)
        yield block
        while not (self._decompressor.needs_input or self.ended):
            self.content = True
            yield self._decompressor.decompress(b"", BLOCK)

    @property
    def ended(self) -> bool:
        return self._decompressor.eof

    @property
    def unused(self) -> int:
        """Bytes of what was given last that are not its own."""
        return len(self._decompressor.unused_data)
