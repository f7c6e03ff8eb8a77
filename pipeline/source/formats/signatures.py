"""Recognizes files that are not text by their content: archives, tables, documents of other programs.

As text, an archive would give documents that nobody wrote: the headers of a tar file, its padding, the parts
of a zip file that are not compressed. A name says little: these files lie under any.
"""

import re
import zlib

from pipeline.errors import SourceError

LONGEST = 512
"""The bytes at the start of a file that suffice to recognize it: a header of tar."""
_UNPACK = "unpack it, or leave it out"
_COMPRESSION = "set source.compression, or give it the ending of its compression"
_FORMAT = "set source.format to what it is, or leave it out"
_CERTAIN = (
    (b"PK\x03\x04", "is a zip archive", _UNPACK),
    (b"PK\x05\x06", "is a zip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "is a rar archive", _UNPACK),
    (b"MSCF\0\0\0\0", "is a cab archive", _UNPACK),
    (b"!<arch>\n", "is an ar archive", _UNPACK),
    (b"\x1f\x8b\x08", "is compressed by gzip", _COMPRESSION),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", _COMPRESSION),
    (b"\xfd7zXZ\0", "is compressed by xz", _COMPRESSION),
    (b"\x04\x22\x4d\x18", "is compressed by lz4", "decompress it"),
    (b"\xff\x06\0\0sNaPpY", "is compressed by snappy", "decompress it"),
    (b"\x1f\x9d", "is compressed by compress", "decompress it"),
    (b"\x89LZO\0", "is compressed by lzop", "decompress it"),
    (b"PAR1\x15", "is a Parquet file", _FORMAT),
    (b"Obj\x01", "is an Avro file", "convert it to Parquet"),
    (b"ARROW1\0\0", "is an Arrow file", "convert it to Parquet"),
    (b"SEQ\x06", "is a SequenceFile of Hadoop", "convert it to Parquet"),
    (b"RCF\x01", "is an RCFile of Hive", "convert it to Parquet"),
    (b"SQLite format 3\0", "is a database of SQLite", "export its tables"),
    (b"\x89HDF\r\n", "is an HDF5 file", "convert it to Parquet"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old file of Office", "export it as text or CSV"),
    (b"%PDF-1.", "is a PDF", "extract its text"),
    (b"%PDF-2.", "is a PDF", "extract its text"),
    (b"\x89PNG\r\n", "is a picture", "leave it out"),
    (b"\xff\xd8\xff", "is a picture", "leave it out"),
    (b"GIF89a", "is a picture", "leave it out"),
    (b"\x7fELF", "is a program", "leave it out"),
    (b"MZ\x90\0", "is a program", "leave it out"),
    (b"\xca\xfe\xba\xbe\0\0\0", "is a program", "leave it out"),
    (b"\0asm", "is a program", "leave it out"),
    (b"\x93NUMPY", "is an array of NumPy", "convert it to Parquet"),
    (b"ID3\x03\0", "is a sound", "leave it out"),
    (b"ID3\x04\0", "is a sound", "leave it out"),
    (b"OggS\0", "is a sound", "leave it out"),
    (b"fLaC\0", "is a sound", "leave it out"),
    (b"wOF2", "is a font", "leave it out"),
    (
        b"version https://git-lfs.github.com/spec/",
        "is a pointer of Git LFS",
        "get the file, as by: git lfs pull",
    ),
)
_PATTERNS = (
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"), "is compressed by bzip2", _COMPRESSION),
    # A length of four bytes follows the magic of Parquet with an encrypted footer.
    (re.compile(rb"PARE[\s\S]{2}\0\0"), "is an encrypted Parquet file", "decrypt it, or leave it out"),
    (re.compile(rb"ORC[\s\S]{,64}?[\x00-\x08\x0e-\x1f]"), "is an ORC file", "convert it to Parquet"),
    (re.compile(rb"RIFF[\s\S]{4}(?:WAVE|AVI |WEBP)"), "is a sound, a picture or a film", "leave it out"),
    (re.compile(rb"\0\0[\s\S]{2}ftyp"), "is a sound, a picture or a film", "leave it out"),
    # The version of the protocol, then the size of the first frame in eight bytes.
    (re.compile(rb"\x80[\x04\x05]\x95[\s\S]{6}\0\0"), "is a pickle of Python", "convert it to Parquet"),
)
_CHECKSUM = slice(148, 156)
"""The place of the sum of all bytes in a header of tar, in which itself counts as spaces."""


def refuse_other_content(start: bytes) -> None:
    """Refuses a file that begins like one that is not text.

    Args:
        start: its first `LONGEST` bytes, after decompression.

    Raises:
        SourceError: it does; the error says what it is.
    """
    if found := known(start):
        what, hint = found
        raise SourceError(what, hint=hint)


def known(start: bytes) -> tuple[str, str] | None:
    """Returns what a file is and what to do with it; None for text, or for what is not known."""
    for signature, what, hint in _CERTAIN:
        if start.startswith(signature):
            return what, hint
    for pattern, what, hint in _PATTERNS:
        if pattern.match(start):
            return what, hint
    if _is_tar(start):
        return "is a tar archive", _UNPACK
    if _is_deflated(start):
        return "is compressed by deflate (zlib)", "decompress it"
    return None


def _is_tar(start: bytes) -> bool:
    """Tells whether a header of tar is there; it has no signature in the oldest archives, but a checksum."""
    header = start[:LONGEST]
    if len(header) < LONGEST or not header.strip(b"\0"):
        return False
    told = header[_CHECKSUM].strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,7}", told):
        return False
    summed = sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")
    return int(told, 8) == summed


def _is_deflated(start: bytes) -> bool:
    """Tells whether a stream of zlib is there: its header is two bytes, and "x^" is one, so it is tried."""
    if len(start) < 8 or start[0] != 0x78 or int.from_bytes(start[:2]) % 31:
        return False
    try:
        return bool(zlib.decompressobj().decompress(start, 64)) or len(start) < LONGEST
    except zlib.error:
        return False
