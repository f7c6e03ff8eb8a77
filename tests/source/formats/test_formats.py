"""Tests of formats: whatever the cuts, each row is read once, completely, and with its true position."""

import datetime
import decimal
import gzip
import io
import itertools
import uuid
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.config.source import Source
from pipeline.errors import SourceChangedError, SourceError, StorageError
from pipeline.plan import cut
from pipeline.source import formats
from pipeline.source.formats import Documents, Piece, RawRows, parquet, separate_rejects

TEXT = Source(path="x.txt")
PARQUET = Source(path="x.parquet", id_column="key", carry=("topic",))
CARRIED = pa.schema([("key", pa.int64()), ("topic", pa.string())])


def piece_of(path: Path, unit: str, start: int, stop: int) -> Piece:
    info = storage.connect(str(path)).info(str(path))
    return Piece("docs", path.name, info.version, info.size, unit, start, stop)


def read_all(path: Path, source: Source, cuts: list[int], unit: str) -> list[RawRows]:
    pieces = [piece_of(path, unit, start, stop) for start, stop in itertools.pairwise(cuts)]
    columns = survey(path, source).columns
    return list(formats.read(str(path), pieces, source, columns)) if pieces else []


def survey(path: Path, source: Source) -> formats.Survey:
    return formats.survey(storage.connect(str(path)).info(str(path)), path.name, source)


# --- text


@given(
    lines=st.lists(
        st.sampled_from([b"", b"a", b"\r", b"bc\r", b"\xc3\xa4" * 9, b"x" * 40, b"\r\r"]), max_size=30
    ),
    ended=st.booleans(),
    part=st.integers(1, 50),
)
@example(lines=[b"a\r"], ended=False, part=1)
def test_text_is_read_once_whatever_the_cuts(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool, part: int
) -> None:
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    path = tmp_path_factory.mktemp("text") / "x.txt"
    path.write_bytes(data)
    edges = sorted({0, len(data), *range(0, len(data), part)})
    read = read_all(path, TEXT, edges, "bytes") if data else []
    assert [(raw.start, raw.stop) for raw in read] == sorted((raw.start, raw.stop) for raw in read)
    joined = [0, *(raw.stop for raw in read)]
    assert joined[:-1] == [raw.start for raw in read]
    assert joined[-1] == len(data)
    expected = data.split(b"\n")[: -1 if data.endswith(b"\n") or not data else None]
    # A CR is dropped only before a LF: the last line keeps its CR if no LF ends it.
    whole = [line.removesuffix(b"\r") for line in expected]
    if expected and not data.endswith(b"\n"):
        whole[-1] = expected[-1]
    assert [text.as_py().encode() for raw in read for text in raw.texts] == whole
    starts = [position.as_py() for raw in read for position in raw.positions]
    assert all(data[start:].startswith(line) for start, line in zip(starts, whole, strict=True))


def test_a_sample_with_short_lines_decides_how_text_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a" * 999 + b"\n" + b"b\n" * 100_000 + b"c" * 200_000 + b"\n")
    found = survey(path, TEXT)
    assert found.unit == "bytes"
    assert found.spans[0].rows >= 100_000


# --- parquet


def parquet_file(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, **options)
    return path


def numbered(rows: int) -> pa.Table:
    return pa.table(
        {
            "key": pa.array(range(rows), pa.int64()),
            "text": [f"text {row}" for row in range(rows)],
            "topic": [f"t{row}" for row in range(rows)],
            "heavy": np.zeros(rows),
        }
    )


@given(rows=st.integers(1, 60), group=st.integers(1, 20), cuts=st.sets(st.integers(1, 59), max_size=6))
def test_parquet_is_read_once_whatever_the_cuts(
    tmp_path_factory: pytest.TempPathFactory, rows: int, group: int, cuts: set[int]
) -> None:
    path = parquet_file(tmp_path_factory.mktemp("p") / "x.parquet", numbered(rows), row_group_size=group)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    read = read_all(path, PARQUET, edges, "rows")
    assert [key for raw in read for key in raw.columns.column("key").to_pylist()] == list(range(rows))
    assert [p.as_py() for raw in read for p in raw.positions] == list(range(rows))
    assert [t.as_py() for raw in read for t in raw.texts] == [f"text {row}" for row in range(rows)]


def test_survey_of_parquet_reads_spans_from_the_footer(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "x.parquet", numbered(50), row_group_size=20)
    found = survey(path, PARQUET)
    assert [(span.start, span.stop) for span in found.spans] == [(0, 20), (20, 40), (40, 50)]
    assert found.columns == CARRIED


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_text_of_every_arrow_type(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["one", None, "two"]).cast(kind)
    table = pa.table({"key": pa.array([1, 2, 3], pa.int64()), "text": texts, "topic": ["a", "b", "c"]})
    path = parquet_file(tmp_path / "x.parquet", table)
    [raw] = read_all(path, PARQUET, [0, 3], "rows")
    assert raw.texts.to_pylist() == ["one", None, "two"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"key": [1], "body": ["x"]}), "no such column"),
        (pa.table({"text": ["x"]}), "no such column"),
        (pa.table({"key": [1], "text": [7]}), "is not text"),
    ],
)
def test_a_file_without_the_columns_is_named(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = parquet_file(tmp_path / "x.parquet", table)
    with pytest.raises(SourceError, match=message):
        survey(path, PARQUET)


def test_damaged_files_are_source_errors(tmp_path: Path) -> None:
    path = parquet_file(
        tmp_path / "x.parquet", numbered(5000), use_dictionary=False, write_page_checksum=True
    )
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"PAR1", gzip.compress(data)):
        path.write_bytes(damaged)
        with pytest.raises(SourceError):
            survey(path, PARQUET)
    path.write_bytes(data[:2000] + bytes(4) + data[2004:])  # within a page
    with pytest.raises(SourceError, match="can't be read"):
        read_all(path, PARQUET, [0, 5000], "rows")


def test_a_file_that_changed_is_not_mixed_in(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "x.parquet", numbered(5))
    piece = piece_of(path, "rows", 0, 5)
    parquet_file(path, numbered(6))
    with pytest.raises(SourceChangedError, match="changed since it was planned"):
        list(formats.read(str(path), [piece], PARQUET, CARRIED))
    path.unlink()
    with pytest.raises(SourceChangedError, match="is gone"):
        list(formats.read(str(path), [piece], PARQUET, CARRIED))


# --- documents and rejects


def sifted(texts: pa.Array, keep_text: bool = True) -> Documents:
    raw = RawRows(texts, pa.table({}), pa.array(range(len(texts)), pa.int64()), 0, len(texts))
    piece = Piece("docs", "x", "v", 1, "rows", 0, len(texts))
    return separate_rejects(raw, piece, pa.schema([("id", pa.string())]), keep_text, replace_errors=False)


def test_bad_rows_are_rejected_with_reason_and_place() -> None:
    raw = pa.array(
        [b"good", None, b"  \t\n", b"", b"\xff\xfe", "\u00a0\u2003".encode(), b"fine"], pa.large_binary()
    )
    texts = pa.LargeStringArray.from_buffers(7, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    documents = sifted(texts)
    assert documents.texts.to_pylist() == ["good", "fine"]
    assert documents.rows.column("id").to_pylist() == ["docs/x#0", "docs/x#6"]
    assert [(row["source_row"], row["reason"]) for row in documents.rejects.to_pylist()] == [
        (1, "null"), (2, "blank"), (3, "blank"), (4, "invalid_utf8"), (5, "blank"),
    ]  # fmt: skip
    assert documents.rejects.column("text").to_pylist() == [None, "  \t\n", "", None, "\u00a0\u2003"]


def test_rejected_texts_can_be_kept_out() -> None:
    assert sifted(pa.array(["  "], pa.large_string()), keep_text=False).rejects["text"].to_pylist() == [None]


def test_text_hash_is_of_the_bytes() -> None:
    documents = sifted(pa.array([" ä ", "b", "c"], pa.large_string()).slice(0, 2))
    expected = [blake2b(text.encode(), digest_size=16).digest() for text in (" ä ", "b")]
    assert documents.rows.column("text_hash").to_pylist() == expected


def test_carried_types_become_ones_that_every_reader_takes(tmp_path: Path) -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, 678)
    columns = {
        "a": pa.array([when], pa.timestamp("ns")),
        "b": pa.array([2**64 - 1], pa.uint64()),
        "c": pa.array([1.5], pa.float16()),
        "d": pa.array([datetime.time(1, 2, 3)], pa.time64("us")),
        "e": pa.array(["x"]).dictionary_encode(),
        "f": pa.array([[1, 2]], pa.large_list(pa.uint64())),
        "g": pa.array([b"ab"], pa.binary(2)),
    }
    path = parquet_file(tmp_path / "x.parquet", pa.table({"text": ["t"]} | columns))
    source = Source(path="x.parquet", carry=tuple(columns))
    [raw] = read_all(path, source, [0, 1], "rows")
    assert [str(field.type) for field in raw.columns.schema] == [
        "timestamp[us]", "decimal128(20, 0)", "float", "string", "string",
        "list<item: decimal128(20, 0)>", "binary",
    ]  # fmt: skip
    row = raw.columns.to_pylist()[0]
    assert row["a"] == when
    assert row["b"] == decimal.Decimal(2**64 - 1)
    assert row["d"].startswith("01:02:03")


# --- one large file


@pytest.mark.parametrize("size", [20_000_000, pytest.param(1_000_000_000, marks=pytest.mark.slow)])
def test_a_large_text_file_is_tiled_by_its_splits(tmp_path: Path, size: int) -> None:
    """No line is lost, doubled or cut: the lines of all splits equal the file's, in number and digest."""
    path = tmp_path / "large.txt"
    random = np.random.default_rng(0)
    block = b"".join(
        b"%d %s\n" % (i, b"word " * int(n)) for i, n in enumerate(random.integers(0, 60, 20_000))
    )
    with path.open("wb") as file:
        for number in range(size // len(block)):
            file.write(b"%d:" % number + block)
    info = storage.connect(str(path)).info(str(path))
    found = formats.survey(info, path.name, TEXT)
    ranges = list(cut.cut_spans(found.spans, 65_536, 4_000_000))
    assert len(ranges) >= size // 4_000_000
    lines, digest, consumed = 0, blake2b(), 0
    pieces = [piece_of(path, "bytes", part.start, part.stop) for part in ranges]
    for raw in formats.read(str(path), pieces, TEXT, pa.schema([])):
        assert raw.start == consumed
        consumed = raw.stop
        lines += len(raw.texts)
        digest.update("".join(f"{text}\n" for text in raw.texts.to_pylist()).encode())
    expected_lines, expected = 0, blake2b()
    with path.open("rb") as file:
        for line in file:
            expected_lines += 1
            expected.update(line)
    assert (lines, consumed) == (expected_lines, path.stat().st_size)
    assert digest.digest() == expected.digest()


class Throttled:
    """A file whose storage gives up; the reader must raise an error of `pipeline.storage`."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, _size: int = -1) -> bytes:
        raise OSError("SlowDown")


def test_a_failing_storage_is_not_a_damaged_file(tmp_path: Path) -> None:
    data = parquet_file(tmp_path / "x.parquet", numbered(5)).read_bytes()
    file = pa.PythonFile(storage.base.NamedFile(Throttled(data), "s3://b/x.parquet"), mode="r")
    with pytest.raises(StorageError, match="SlowDown"):
        parquet.survey(file, "x.parquet", len(data), PARQUET)


def test_a_column_that_stands_twice_is_a_source_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(["x"]), pa.array(["y"]), pa.array([1])], names=["text", "text", "key"]
    )
    path = parquet_file(tmp_path / "x.parquet", table)
    with pytest.raises(SourceError, match="a column twice.*text"):
        survey(path, PARQUET)


def test_nested_and_extension_types_are_carried(tmp_path: Path) -> None:
    key = uuid.UUID(int=7)
    columns = {
        "a": pa.array([{"when": 1_000_001}], pa.struct([("when", pa.timestamp("ns"))])),
        "b": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([key.bytes], pa.binary(16))),
    }
    path = parquet_file(tmp_path / "x.parquet", pa.table({"text": ["t"]} | columns))
    [raw] = read_all(path, Source(path="x.parquet", carry=("a", "b")), [0, 1], "rows")
    assert [str(field.type) for field in raw.columns.schema] == ["struct<when: timestamp[us]>", "binary"]
    assert raw.columns["b"].to_pylist() == [key.bytes]


@pytest.mark.parametrize("inside", ["itself", "list", "struct"])
def test_a_carried_string_that_is_not_utf8_rejects_its_row(inside: str) -> None:
    bad = pa.array([b"fine", b"\xff"], pa.binary())
    topic = pa.StringArray.from_buffers(2, bad.buffers()[1], bad.buffers()[2])
    if inside == "list":
        topic = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), topic)
    elif inside == "struct":
        topic = pa.StructArray.from_arrays([topic], ["name"])
    raw = RawRows(
        pa.array(["one", "two"], pa.large_string()), pa.table({"topic": topic}), pa.array([0, 1]), 0, 2
    )
    piece = Piece("docs", "x", "v", 1, "rows", 0, 2)
    documents = separate_rejects(raw, piece, pa.schema([("topic", topic.type)]), True, False)
    assert documents.rows.column("topic").to_pylist() == topic[:1].to_pylist()
    assert [row["reason"] for row in documents.rejects.to_pylist()] == ["invalid_utf8_carried"]


@pytest.mark.parametrize("name", ["../secret.txt", "deep/../../secret.txt", "/../secret.txt", ""])
def test_a_planned_name_that_leads_out_of_its_source_is_not_read(tmp_path: Path, name: str) -> None:
    """A plan that somebody else wrote may name any file that this process could read."""
    (tmp_path / "source/deep").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("a secret\n")
    [info] = storage.connect(str(tmp_path)).glob(str(tmp_path / "secret.txt"))
    source = Source(path=f"{tmp_path}/source/*.txt")
    piece = Piece("docs", name, info.version, info.size, "bytes", 0, info.size)
    with pytest.raises(SourceError, match="its name leads out of the source"):
        list(formats.read(formats.file_path(source, name), [piece], source, pa.schema([])))


def test_a_planned_name_with_dots_that_lead_nowhere_is_read(tmp_path: Path) -> None:
    (tmp_path / "a..b").mkdir()
    (tmp_path / "a..b/..c.txt").write_text("a text\n")
    [info] = storage.connect(str(tmp_path)).glob(str(tmp_path / "a..b/..c.txt"))
    source = Source(path=f"{tmp_path}/**/*.txt")
    piece = Piece("docs", "a..b/..c.txt", info.version, info.size, "bytes", 0, info.size)
    [raw] = formats.read(formats.file_path(source, piece.file), [piece], source, pa.schema([]))
    assert raw.texts.to_pylist() == ["a text"]
