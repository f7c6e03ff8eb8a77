"""Tests that lists of deleted rows are read exactly, and that a damaged one never passes for an empty one."""

import json
import struct
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.location import Options
from pipeline.errors import MissingError, SourceError
from pipeline.source.tables.deletions import decode_z85, deleted_rows, vector_name
from pipeline.source.tables.snapshot import Deletion
from tests.written_tables import encode_z85, framed

pytest.importorskip("pyroaring")
ANYWHERE = Options()


def vector(folder: Path, positions: set[int], before: int = 1) -> Deletion:
    """Writes a deletion vector of Delta behind some bytes."""
    path, data = folder / "vectors.bin", framed(positions)
    path.write_bytes(bytes(before) + data + b"others")
    return Deletion("delta", str(path), "", before, len(data) - 8, "", len(positions))


@given(st.sets(st.integers(0, 2**33), max_size=50))
def test_a_vector_is_read(tmp_path_factory: pytest.TempPathFactory, positions: set[int]) -> None:
    found = vector(tmp_path_factory.mktemp("vectors"), positions, before=7)
    assert deleted_rows([found], ANYWHERE, 2**33 + 1).tolist() == sorted(positions)


@given(st.binary(max_size=40).map(lambda data: data + bytes(-len(data) % 4)))
def test_z85_comes_back(data: bytes) -> None:
    assert decode_z85(encode_z85(data)) == data


def test_z85_and_names_are_those_of_the_standard() -> None:
    assert decode_z85("HelloWorld") == bytes.fromhex("864fd26fb559f75b")
    name = uuid.uuid4()
    assert vector_name(encode_z85(name.bytes)) == f"deletion_vector_{name}.bin"
    assert vector_name("ab" + encode_z85(name.bytes)) == f"ab/deletion_vector_{name}.bin"


def test_an_inline_vector_is_read() -> None:
    data = framed([0, 3])[4:-4]
    inline = encode_z85(data + bytes(-len(data) % 4))
    assert deleted_rows([Deletion("delta", inline=inline, rows=2)], ANYWHERE, 4).tolist() == [0, 3]


def test_position_deletes_of_several_files_are_joined(tmp_path: Path) -> None:
    for name, listed in (("0", [("a", 3), ("b", 0), ("a", 1)]), ("1", [("a", 3), ("a", 9)])):
        files, positions = zip(*listed, strict=True)
        table = pa.table({"file_path": files, "pos": pa.array(positions, pa.int64())})
        pq.write_table(table, tmp_path / name)
    found = [Deletion("parquet", str(tmp_path / name), target="a") for name in ("0", "1")]
    assert deleted_rows(found, ANYWHERE, 10).tolist() == [1, 3, 9]
    assert deleted_rows([Deletion("parquet", str(tmp_path / "1"), target="c")], ANYWHERE, 10).tolist() == []


def puffin(path: Path, blobs: dict[str, bytes]) -> None:
    """Writes a Puffin file with a deletion vector for each data file."""
    content, told = b"PFA1", []
    for target, blob in blobs.items():
        about = {"type": "deletion-vector-v1", "fields": [], "snapshot-id": 1, "sequence-number": 1}
        place = {"offset": len(content), "length": len(blob)}
        told.append(about | place | {"properties": {"referenced-data-file": target}})
        content += blob
    footer = json.dumps({"blobs": told}).encode()
    path.write_bytes(content + b"PFA1" + footer + struct.pack("<I", len(footer)) + bytes(4) + b"PFA1")


def test_vectors_of_iceberg_are_read(tmp_path: Path) -> None:
    pytest.importorskip("pyiceberg")
    path = tmp_path / "vectors.puffin"
    puffin(path, {"a": framed([1, 4]), "b": framed([2**32 + 5])})
    assert deleted_rows([Deletion("puffin", str(path), target="a")], ANYWHERE, 5).tolist() == [1, 4]
    found = deleted_rows([Deletion("puffin", str(path), target="b")], ANYWHERE, 2**33)
    assert found.tolist() == [2**32 + 5]
    with pytest.raises(SourceError, match="does not name the data file"):
        deleted_rows([Deletion("puffin", str(path), target="c")], ANYWHERE, 5)


@pytest.mark.parametrize("damage", ["checksum", "cut", "magic", "rows", "beyond"])
def test_a_vector_that_can_not_be_trusted_fails_its_file(tmp_path: Path, damage: str) -> None:
    found = vector(tmp_path, {1, 2})
    path, rows = Path(found.path), 3
    data = bytearray(path.read_bytes())
    if damage == "checksum":
        data[20] ^= 1
    elif damage == "cut":
        del data[20:]
    elif damage == "magic":
        found = Deletion("delta", inline=encode_z85(b"12345678"))
    elif damage == "rows":
        found = Deletion("delta", found.path, "", found.offset, found.size, "", 5)
    else:
        rows = 2
    path.write_bytes(data)
    with pytest.raises(SourceError, match="its deleted rows are not known"):
        deleted_rows([found], ANYWHERE, rows)


def test_a_vector_that_is_gone_is_an_error_of_storage(tmp_path: Path) -> None:
    found = vector(tmp_path, {1})
    Path(found.path).unlink()
    with pytest.raises(MissingError):
        deleted_rows([found], ANYWHERE, 5)
