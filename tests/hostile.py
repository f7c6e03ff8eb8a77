"""Makes files that harm their readers: small on disk, and endless, huge or untrue inside."""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests import thrift

MiB = 1 << 20
PART = MiB
"""Bytes of content that is compressed once, and then repeated as a member."""
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}  # fmt: skip
SCHEMA, ROWS, GROUPS = 2, 3, 4
"""Numbers of the fields of FileMetaData; the rows of a RowGroup have the same number."""
COLUMNS, META = 1, 3
VALUES, UNCOMPRESSED, COMPRESSED, OFFSET = 5, 6, 7, 11
"""Numbers of the fields of ColumnMetaData; the offset is that of the dictionary, which is read first."""
Files = Iterator[tuple[str, bytes]]


def of(kind: str, suffix: str, folder: Path) -> Files:
    """Yields names and contents of hostile files of a format, with a compression."""
    if kind == "parquet":
        yield from _claims(folder / "scratch.parquet")
        yield from _expanding()
        return
    yield from _endless(kind, suffix)
    yield from _records(kind, suffix)
    if suffix:
        yield from _damaged(suffix)


def good(kind: str, suffix: str) -> bytes:
    """Makes a file of 20 rows, `key` and `text`; of one row if a file is a document."""
    rows = [{"key": number, "text": f"text number {number}"} for number in range(20)]
    if kind == "parquet":
        return parquet(pa.Table.from_pylist(rows))
    content = {
        "text": "".join(f"{row['text']}\n" for row in rows),
        "text-files": "a document",
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "csv": "key,text\n" + "".join(f'{row["key"]},"{row["text"]}"\n' for row in rows),
        "tsv": "key\ttext\n" + "".join(f"{row['key']}\t{row['text']}\n" for row in rows),
    }[kind]
    return COMPRESS[suffix](content.encode())


def start(kind: str) -> bytes:
    """Returns the harmless beginning of a file whose harm comes later."""
    return {"csv": b"key,text\n", "tsv": b"key\ttext\n", "jsonl": b'{"key": 1, "text": "a"}\n'}.get(kind, b"")


def repeated(kind: str, suffix: str, unit: bytes, size: int, end: bytes = b"") -> bytes:
    """Repeats a unit up to a number of bytes, compressed in equal members.

    Without compression the file stays small: a MiB.
    """
    compress = COMPRESS[suffix]
    part = compress(unit * (PART // len(unit)))
    return compress(start(kind)) + part * (size // PART if suffix else 1) + (compress(end) if end else b"")


def _endless(kind: str, suffix: str) -> Files:
    # Files of short lines have 21 million: more than `bounds.ALWAYS_ROWS`, whatever was inspected before.
    yield "newlines", repeated(kind, suffix, b"\n", 20 * MiB)
    yield "one-line", repeated(kind, suffix, b"x", 300 * MiB)
    yield "blanks", repeated(kind, suffix, b"   \n", 80 * MiB)
    yield "wide-blanks", repeated(kind, suffix, b" " * 65_535 + b"\n", 300 * MiB)
    yield "nuls", repeated(kind, suffix, b"\0", 80 * MiB)
    yield "nuls-in-lines", repeated(kind, suffix, b"\0\n", 40 * MiB)
    yield "no-utf8", repeated(kind, suffix, b"\xff", 80 * MiB)
    yield "long-enough", repeated(kind, suffix, b"y", 60 * MiB, b"\n")
    yield "open-quote", repeated(kind, suffix, b'"ab\n",', 120 * MiB)
    yield "quotes", repeated(kind, suffix, b'"', 70 * MiB)
    yield "long-name", COMPRESS[suffix](b"z" * 2 * MiB + b"\n1\n")


def _records(kind: str, suffix: str) -> Files:
    yield "fields", repeated(kind, suffix, b"ab,", 60 * MiB, b"\n")
    yield "tabs", repeated(kind, suffix, b"ab\t", 60 * MiB, b"\n")
    yield "many-fields-in-rows", repeated(kind, suffix, b"ab," * 20_000 + b"\n", 60 * MiB)
    for name, unit in (
        ("lists", b"[],"), ("objects", b"{},"), ("depth", b"["), ("deep-objects", b'{"a":'), ("digits", b"9"),
        ("pairs", b'{"k":1},'),
    ):  # fmt: skip
        begin = COMPRESS[suffix](b'{"text": "t", "key": [' if name != "digits" else b'{"text": "t", "key": ')
        end = b"1]}\n" if name != "digits" else b"}\n"
        yield f"json-{name}", begin + repeated("text", suffix, unit, 56 * MiB, end)
    nested = b"".join(
        b'{"text": "t", "key": ' + b"[" * depth + b"]" * depth + b"}\n" for depth in range(900, 1000)
    )
    yield "json-nested", COMPRESS[suffix](start("jsonl") + nested)


def _damaged(suffix: str) -> Files:
    compress = COMPRESS[suffix]
    empty, some = compress(b""), compress(b"x")
    yield "empty-members", empty * (2 * MiB // len(empty))
    yield "small-members", some * (MiB // len(some))
    yield "cut-bomb", repeated("text", suffix, b"\n", 200 * MiB)[:-3]
    yield "zip", b"PK\3\4" + bytes(1000)
    yield "twice", compress(repeated("text", suffix, b"\n", 80 * MiB))
    yield "zeros-behind", some + bytes(MiB)
    if suffix == ".zst":
        # A frame whose window is 2 GiB (RFC 8878, 3.1.1.1.2), of one block of raw content.
        yield "window", b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x09\x00\x00" + b"x"
    if suffix == ".xz":
        yield "dictionary", _with_dictionary(lzma.compress(b"x\n"))


def _with_dictionary(data: bytes) -> bytes:
    """Makes an xz file whose block needs a dictionary of 4 GiB less a byte, with a right checksum."""
    at = data.index(b"\x21\x01", 12)
    end = 12 + 4 * (data[12] + 1)
    header = data[12 : at + 2] + bytes([40]) + data[at + 3 : end - 4]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "little") + data[end:]


# --- Parquet


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _alike(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def _expanding() -> Files:
    keys = pa.array(range(60_000), pa.int32())
    large = pa.table({"key": keys, "text": _alike("x" * 1_000_000, 60_000)})
    yield "dictionary", parquet(large, store_schema=False, compression="zstd")
    yield "arrow-dictionary", parquet(large, compression="zstd")
    carried = pa.table({"key": _alike("k" * 1_000_000, 60_000), "text": ["t"] * 60_000})
    yield "carried-dictionary", parquet(carried, store_schema=False)
    medium = pa.table({"key": keys, "text": _alike("x" * 50_000, 60_000)})
    yield "smaller-dictionary", parquet(medium, store_schema=False)
    prefixes = pa.table({"key": range(20_000), "text": ["y" * 20_000] * 20_000})
    plain: dict[str, Any] = {"use_dictionary": False, "compression": "zstd"}
    yield "prefixes", parquet(prefixes, column_encoding={"text": "DELTA_BYTE_ARRAY", "key": "PLAIN"}, **plain)
    yield "pages", parquet(pa.table({"key": range(8), "text": ["z" * (60 * MiB)] * 8}), **plain)
    yield "too-long", parquet(pa.table({"key": [1], "text": ["z" * (70 * MiB)]}), **plain)
    yield "groups", parquet(pa.table({"key": range(1000), "text": ["g"] * 1000}), row_group_size=1)
    yield (
        "nulls",
        parquet(pa.table({"key": pa.nulls(10**7, pa.int32()), "text": pa.nulls(10**7, pa.string())})),
    )


def _claims(path: Path) -> Files:
    """Yields files with untrue footers."""
    path.write_bytes(parquet(pa.table({"key": range(100), "text": ["t"] * 100}), row_group_size=50))
    yield "all-rows", claiming_rows(path, 2**50, 2**50 - 50, values=True)
    yield "rows-of-the-file", claiming_rows(path, 2**50)
    yield "rows-of-groups", claiming_rows(path, 100, 2**50, 2**50)
    yield "negative-rows", claiming_rows(path, -1)
    yield "negative-group", claiming_rows(path, 100, -(2**40), 2**40 + 100)
    yield "no-rows", claiming_rows(path, 0)
    yield "more-values", claiming_rows(path, 2**20 + 50, 2**20)
    yield "fewer-values", claiming_rows(path, 60, 10)
    yield "many-rows-that-fit", claiming_rows(path, 10**7 + 50, 10**7, values=True)
    for field in (UNCOMPRESSED, COMPRESSED):
        for size in (-1, 2**62, 2**35):
            yield f"sizes-{field}-{size}", claiming(path, field, size)
    yield "offsets", claiming(path, OFFSET, 2**40)
    yield "negative-offsets", claiming(path, OFFSET, -5)
    footer = thrift.footer_of(path)
    _nest(footer)
    yield "deep", thrift.with_footer(path, footer)


def claiming_rows(path: Path, whole: int, *each: int, values: bool = False) -> bytes:
    """Makes a file whose footer claims numbers of rows, for the file and for its first row groups.

    Args:
        values: true if the columns of these row groups claim as many values.
    """
    footer = thrift.footer_of(path)
    footer[ROWS] = thrift.I64, whole
    for group, count in zip(footer[GROUPS][1][1], each, strict=False):
        group[ROWS] = thrift.I64, count
        for column in group[COLUMNS][1][1] if values else ():
            column[META][1][VALUES] = thrift.I64, count
    return thrift.with_footer(path, footer)


def claiming(path: Path, field: int, value: int) -> bytes:
    """Makes a file whose footer claims a value for a field of each column of each row group."""
    footer = thrift.footer_of(path)
    for group in footer[GROUPS][1][1]:
        for column in group[COLUMNS][1][1]:
            column[META][1][field] = thrift.I64, value
    return thrift.with_footer(path, footer)


def _nest(footer: thrift.Struct) -> None:
    """Puts a column 50,000 levels deep into the schema."""
    kind, (element, elements) = footer[SCHEMA]
    elements[0][5] = 5, 3
    group = {3: (5, 0), 4: (thrift.BINARY, b"deep"), 5: (5, 1)}
    leaf = {1: (5, 1), 3: (5, 0), 4: (thrift.BINARY, b"leaf")}
    footer[SCHEMA] = kind, (element, [*elements, *[group] * 50_000, leaf])
