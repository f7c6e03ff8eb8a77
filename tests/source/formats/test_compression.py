"""Tests of compressed files: what their tools accept is read, and what is refused says why."""

import bz2
import gzip
import lzma
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.config.source import Source
from pipeline.errors import SourceError
from pipeline.source import formats
from pipeline.source.formats import compression
from tests.source.formats.test_rows_of_text_formats import documents, write

TEXT = b"".join(b"line %d\n" % n for n in range(1000))
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("zeros", [4, 512, 3 << 20])
def test_zero_bytes_behind_a_member_are_no_damage(tmp_path: Path, suffix: str, zeros: int) -> None:
    """Tapes, block devices and some archivers fill up with them, and each tool reads past them."""
    compress = COMPRESS[suffix]
    path = write(tmp_path / f"a.txt{suffix}", compress(TEXT) + bytes(zeros) + compress(b"more\n") + bytes(4))
    found = documents(path, Source(path=path.name)).texts.to_pylist()
    assert (len(found), found[-1]) == (1001, "more")


def test_zero_bytes_alone_are_no_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", gzip.compress(b"") + bytes(100))
    info = storage.connect(str(path)).info(str(path))
    assert formats.survey(info, path.name, Source(path=path.name)).spans == ()


@pytest.mark.parametrize("size", [0, 1, compression.BLOCK - 1, compression.BLOCK, 3 * compression.BLOCK + 1])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_gzip_of_any_size_and_level(size: int, level: int) -> None:
    data = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    stored = gzip.compress(data, level)
    for whole in (stored, stored + gzip.compress(b"more")):
        found = b"".join(compression.blocks(pa.BufferReader(whole), "gzip", len(whole)))
        assert found == data + (b"more" if whole != stored else b"")


def test_a_window_that_is_too_large_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 100)
    # A window is only as large as a content of unknown size may need: the input comes through a pipe.
    with path.open("rb") as file:
        command = ["zstd", "-q", "--long=31", "-19", "-c"]
        try:
            made = subprocess.run(command, stdin=file, capture_output=True, check=True).stdout
        except FileNotFoundError:
            pytest.skip("no zstd here")
    stored = tmp_path / "a.jsonl.zst"
    stored.write_bytes(made[:4] + b"\x04" + b"\xa8" + made[6:])  # a window of 2^31 bytes, in any case
    with pytest.raises(SourceError, match=r"window that is too large.*2\^27.*zstd -d --long=31"):
        documents(stored, Source(path=stored.name))
