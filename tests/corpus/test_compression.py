"""Compressed files and archives as tools leave them, in one folder: read, or failed by name."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config.load import parse_config
from pipeline.estimate.estimate import forecast
from tests.corpus.job import Job, run_here

pytestmark = pytest.mark.usefixtures("flow")
TEXT = b"one\ntwo\n"


def _tar_gz() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        info = tarfile.TarInfo("part.txt")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT))
    return sink.getvalue()


def _zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("part.txt", TEXT)
    return sink.getvalue()


READ = {
    "plain.txt": TEXT, "gzip.txt.gz": gzip.compress(TEXT), "bzip2.txt.bz2": bz2.compress(TEXT),
    "xz.txt.xz": lzma.compress(TEXT), "zstd.txt.zst": pa.compress(TEXT, "zstd", asbytes=True),
    "tape.txt.gz": gzip.compress(TEXT) + bytes(10240), "tape.txt.bz2": bz2.compress(TEXT) + bytes(512),
    "members.txt.gz": gzip.compress(TEXT[:4]) + gzip.compress(b"") + gzip.compress(TEXT[4:]),
    "aligned.txt.xz": lzma.compress(TEXT) + bytes(8),
}  # fmt: skip
FAILED = {
    "docs.tar.gz": (_tar_gz(), "is a tar archive"),
    "docs.tar": (gzip.decompress(_tar_gz()), "is a tar archive"),
    "docs.zip": (_zip(), "is a zip archive"),
    "part.deflate": (zlib.compress(TEXT), "a method that is not read here"),
    "hadoop": (zlib.compress(TEXT), "is compressed by deflate"), "noname": (gzip.compress(TEXT), "by gzip"),
    "twice.gz": (gzip.compress(gzip.compress(TEXT)), "is compressed by gzip"),
}  # fmt: skip


def test_a_folder_of_all(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in READ.items():
        (folder / name).write_bytes(data)
    for name, (data, _) in FAILED.items():
        (folder / name).write_bytes(data)
    values = job(source={"s": {"path": str(folder), "format": "text"}})
    planned = forecast(parse_config(values))
    for name, (_, what) in FAILED.items():
        assert what in planned.made.failed_files[f"s/in/{name}"]
    assert set(planned.made.failed_files) == {f"s/in/{name}" for name in FAILED}
    found = run_here(values)
    assert sorted(found["source_file"].to_pylist()) == sorted(2 * [f"s/in/{name}" for name in READ])
    assert len(set(found["text_hash"].to_pylist())) == 2
