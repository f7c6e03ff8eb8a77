"""Reads and writes Thrift's compact protocol as far as Parquet's footers need it, to write invalid ones."""

import struct
from pathlib import Path
from typing import Any

TRUE, FALSE, BYTE, I64, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 12
INTEGERS = (4, 5, I64)
Struct = dict[int, tuple[int, Any]]
"""Type and value of each field by its number; the value of a list is (type of its elements, elements)."""


def footer_of(path: Path) -> Struct:
    """Reads a Parquet file's FileMetaData."""
    data = path.read_bytes()
    [size] = struct.unpack("<I", data[-8:-4])
    return _Reader(data[-8 - size : -8]).struct()


def with_footer(path: Path, footer: Struct) -> bytes:
    """Returns the file's bytes with another FileMetaData."""
    data = path.read_bytes()
    [size] = struct.unpack("<I", data[-8:-4])
    made = _struct(footer)
    return data[: -8 - size] + made + struct.pack("<I", len(made)) + b"PAR1"


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        found = shift = 0
        while (byte := self.byte()) & 0x80:
            found |= (byte & 0x7F) << shift
            shift += 7
        return found | byte << shift

    def integer(self) -> int:
        found = self.number()
        return found >> 1 ^ -(found & 1)

    def struct(self) -> Struct:
        found: Struct = {}
        field = 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.integer()
            found[field] = head & 15, self.value(head & 15)
        return found

    def value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE):
            return None
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            head = self.byte()
            count = self.number() if head >> 4 == 15 else head >> 4
            return head & 15, [self.element(head & 15) for _ in range(count)]
        return self.plain(kind)

    def element(self, kind: int) -> Any:
        return self.byte() if kind in (TRUE, FALSE) else self.value(kind)

    def plain(self, kind: int) -> Any:
        if kind in INTEGERS:
            return self.integer()
        size = {BYTE: 1, DOUBLE: 8}.get(kind) or self.number()
        self.at += size
        return self.data[self.at - size : self.at]


def _number(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def _integer(value: int) -> bytes:
    return _number((value << 1 ^ value >> 63) & (1 << 64) - 1)


def _struct(fields: Struct) -> bytes:
    heads = (bytes([kind]) + _integer(field) + _value(kind, value) for field, (kind, value) in fields.items())
    return b"".join(heads) + b"\0"


def _value(kind: int, value: Any) -> bytes:
    if kind in (TRUE, FALSE):
        return b""
    if kind == STRUCT:
        return _struct(value)
    if kind in (LIST, SET):
        inner, elements = value
        written = (bytes([each]) if inner in (TRUE, FALSE) else _value(inner, each) for each in elements)
        return bytes([0xF0 | inner]) + _number(len(elements)) + b"".join(written)
    if kind in INTEGERS:
        return _integer(value)
    return value if kind in (BYTE, DOUBLE) else _number(len(value)) + bytes(value)
