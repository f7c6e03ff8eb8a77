"""Tests that files which are not text are named as what they are, under any name."""

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, orc

from pipeline.config.source import Csv, Source
from pipeline.errors import SourceError
from tests.source.formats.test_rows_of_text_formats import documents, faults, write

TABLE = pa.table({"text": ["one", "two"]})


def tar(kind: int = tarfile.USTAR_FORMAT, magic: bool = True) -> bytes:
    """Makes a tar archive of one text; without the magic it is as tar was before 1988."""
    sink, data = io.BytesIO(), b"one\ntwo\n"
    with tarfile.open(fileobj=sink, mode="w", format=kind) as archive:
        info = tarfile.TarInfo("part.txt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    found = bytearray(sink.getvalue())
    if not magic:
        found[257:265] = bytes(8)
        found[148:156] = b" " * 8
        found[148:156] = b"%06o\0 " % sum(found[:512])
    return bytes(found)


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("part.txt", "one\ntwo\n")
    return sink.getvalue()


def written(write_table: Callable[..., None]) -> bytes:
    sink = io.BytesIO()
    write_table(TABLE, sink)
    return sink.getvalue()


def sqlite() -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.execute("create table t (a)")
        return database.serialize()


def numpy_array() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.arange(4))
    return sink.getvalue()


OTHERS = {
    "a tar archive": tar(), "a tar archive ": tar(tarfile.GNU_FORMAT), "a tar archive  ": tar(magic=False),
    "a tar archive   ": tar(tarfile.PAX_FORMAT), "a zip archive": zipped(),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\4" + bytes(40),
    "compressed by gzip": gzip.compress(b"one\n"), "compressed by bzip2": bz2.compress(b"one\n"),
    "compressed by xz": lzma.compress(b"one\n"),
    "compressed by zstd": pa.compress(b"one\n", "zstd", asbytes=True),
    "compressed by lz4": pa.compress(b"one\n", "lz4", asbytes=True),
    "compressed by deflate": zlib.compress(b"one line of text\n" * 9),
    "a Parquet file": written(pq.write_table),
    "an Arrow file": written(feather.write_feather),
    "an ORC file": written(orc.write_table), "a database of SQLite": sqlite(),
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\n",
    "an old file of Office": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
    "an Avro file": b"Obj\x01\x04\x14avro.codec",
    "an array of NumPy": numpy_array(), "a pickle of Python": pickle.dumps(["one", "two"]),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a sound": b"ID3\x03\0\0\0\0\0\x21", "a sound, a picture or a film": b"RIFF\x24\x08\0\0WAVEfmt ",
    "a sound, a picture or a film ": b"\0\0\0\x18ftypmp42", "a program": b"MZ\x90\0\x03",
    "a program ": b"\xca\xfe\xba\xbe\0\0\0\x34", "a program  ": b"\0asm\x01\0\0\0",
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_text_is_named(tmp_path: Path, what: str) -> None:
    for name in ("a.txt", "a.csv", "a.tsv", "a.jsonl", "a.txt.gz", "a.csv.gz"):
        data = gzip.compress(OTHERS[what]) if name.endswith(".gz") else OTHERS[what]
        path = write(tmp_path / name, data)
        for newlines in (True, False) if "csv" in name else (True,):
            dialect = {"csv": Csv(newlines_in_fields=newlines)} if "csv" in name else {}
            with pytest.raises(SourceError, match=f"is {what.strip()}") as error:
                documents(path, Source(path=name, **dialect))
            assert str(error.value).isprintable()


@pytest.mark.parametrize("what", OTHERS)
def test_a_document_that_is_no_text_is_a_reject(tmp_path: Path, what: str) -> None:
    path = write(tmp_path / "a", OTHERS[what])
    assert faults(documents(path, Source(path="a", format="text-files"))) == [(0, "not_text")]


@pytest.mark.parametrize(
    "text",
    [
        "x^2 + 1",
        "PARENTÉ",
        "PARE",
        "ORCHESTRA",
        "ORCÉ",
        "PK",
        "7z",
        "BZh9 is",
        "Obj",
        "MSCF",
        "%PDF",
        "x",
        "ID3 tags",
        "MZ",
        "RIFF",
        "left",
        "version https://git-lfs.com",
    ],
)
def test_text_that_begins_alike_is_text(tmp_path: Path, text: str) -> None:
    for ending in ("\n", "\n" + "more of it\n" * 100):
        path = write(tmp_path / "a.txt", text + ending)
        assert documents(path, Source(path="a.txt")).texts.to_pylist()[0] == text


@pytest.mark.parametrize("suffix", [".deflate", ".snappy", ".lz4", ".br", ".Z"])
def test_a_compression_that_is_not_read_is_named(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.txt{suffix}", b"one\n")
    source = Source(path=path.name, format="text")
    with pytest.raises(
        SourceError, match=f"a method that is not read here.*{suffix}.*source.compression to none"
    ):
        documents(path, source)
    source = Source(path=path.name, format="text", compression="none")
    assert documents(path, source).texts.to_pylist() == ["one"]
