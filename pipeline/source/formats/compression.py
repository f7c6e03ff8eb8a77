"""Reads files that are compressed as one stream: from their start, a block at a time.

Memory: a read-ahead of the compressed file and the memory of the method (for zstd and xz the file sets it, up
to a bound); never all of the content, whatever it expands to. Content that expands more than any text is
refused.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Protocol

import pyarrow as pa

from pipeline.config.source import COMPRESSIONS, Source
from pipeline.errors import SourceError
from pipeline.source.formats import bounds, memory

READ_AHEAD = 8 << 20
"""Bytes of a request for a file that is read from its start: enough to be worth the latency of a store."""
BLOCK = 1 << 20
XZ_MEMORY = 256 << 20
ZSTD_WINDOW_LOG = 27
"""The exponent of the largest window of zstd that is read: more would need more memory."""
UNKNOWN_COMPRESSIONS = (".br", ".deflate", ".lz", ".lz4", ".lzma", ".lzo", ".snappy", ".Z", ".zz")
"""The endings of methods that are not read here."""
FIRST_FED = 1 << 12
"""The first bytes given to a new member. Bytes after its end are copied, so a small one must not get many."""
MAX_EMPTY = 10_000
"""The most members without content: each takes as long as a small one with content."""


def compression(name: str, source: Source) -> str | None:
    """Returns the method by which a file is compressed; None if it is not."""
    if source.compression == "auto":
        return COMPRESSIONS.get(PurePosixPath(name).suffix)
    return None if source.compression == "none" else source.compression


def known_compression(name: str, source: Source) -> str | None:
    """Returns the method by which a file is compressed; None if it is not.

    Raises:
        SourceError: its ending names a method that is not read here, and that its content need not show.
    """
    suffix = PurePosixPath(name).suffix
    if source.compression == "auto" and suffix in UNKNOWN_COMPRESSIONS:
        raise SourceError(
            "is compressed by a method that is not read here",
            got=suffix,
            hint="decompress it; if it is not compressed, set source.compression to none",
        )
    return compression(name, source)


def blocks(file: pa.NativeFile, method: str | None, size: int) -> Iterator[bytes]:
    """Yields the content of a file in blocks, as it was before compression.

    Args:
        size: the stored size of the file.

    Raises:
        SourceError: the file is damaged, incomplete, or compressed by another method; or it expands too much.
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
            yield from _members(buffered, bz2.BZ2Decompressor, b"\0")
            return
        if method == "gzip":
            yield from _members(buffered, _GzipDecompressor, b"\0")
            return
        stream = pa.CompressedInputStream(buffered, method) if method else buffered
        while block := stream.read(BLOCK):
            yield block


@contextmanager
def damage_named() -> Iterator[None]:
    """Turns the exceptions of libraries over damaged content into `SourceError`; errors of storage pass."""
    try:
        yield
    except MemoryError:
        raise  # other work of this process may have used the memory, not the file
    except (pa.ArrowException, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if "requires too much memory" in str(error):
            raise SourceError(
                "was compressed by zstd with a window that is too large",
                got=f"more than 2^{ZSTD_WINDOW_LOG} bytes, as by zstd --long=31",
                hint="compress it again: zstd -d --long=31 -c FILE | zstd -c > OTHER.zst",
            ) from None
        raise SourceError(
            "can't be read", got=first_line(error), hint="make it again, or check source.compression"
        ) from None


def first_line(error: Exception) -> str:
    """Returns the first line of the message of an error."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _members(file: pa.NativeFile, fresh: Callable[[], "_Decompressor"], padding: bytes) -> Iterator[bytes]:
    """Decompresses member by member.

    The libraries do not suffice: Arrow has no xz, the xz files of Python do not bound memory, the bz2 of
    Arrow does not read empty members, and its gzip does not read the zero bytes that tapes add.

    Args:
        fresh: makes a decompressor.  padding: the bytes that may stand between members or after the last.
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
        raise EOFError("it ends too early")


class _Decompressor(Protocol):
    """The decompressor of one member, as the modules of Python for bz2 and xz have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int = -1, /) -> bytes: ...


class _GzipDecompressor:
    """Decompresses one member of gzip; zlib's own object does not keep the input that it has not used."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._full = False

    def decompress(self, data: bytes | memoryview, max_length: int = -1, /) -> bytes:
        rest = self._zlib.unconsumed_tail
        found = self._zlib.decompress(rest + bytes(data) if rest else data, max(0, max_length))
        self._full = len(found) == max_length
        return found

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        """False while there may be more output without more input; zlib may hold some back."""
        return not (self._full or self._zlib.unconsumed_tail or self.eof)

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


class _Member:
    """One member of a compressed file.

    Args:
        empty_before: the members without content that precede it in the file.
    """

    def __init__(self, decompressor: _Decompressor, empty_before: int = 0) -> None:
        if empty_before > MAX_EMPTY:
            raise OSError(f"more than {MAX_EMPTY} of its members are empty")
        self._decompressor, self.empty_before = decompressor, empty_before
        self.step, self.begun, self.content = FIRST_FED, False, False

    def decompress(self, data: memoryview) -> Iterator[bytes]:
        """Yields the content of more bytes of the file."""
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
        """The number of bytes of the last input that lie after the end of the member."""
        return len(self._decompressor.unused_data)
