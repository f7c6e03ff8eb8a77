"""Tests of each bound: content above it fails or is rejected, and valid content stays."""

import bz2
import gzip
import json
import lzma
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.config.source import Csv, Source
from pipeline.errors import SourceError
from pipeline.plan.cut import cut_spans
from pipeline.plan.make import list_sources
from pipeline.sanitize import printable
from pipeline.source import process_pool, reader, survey
from pipeline.source.formats import Span, bounds, compression, delimited, jsonl, lines, memory
from pipeline.source.formats.parquet import _batch_size
from tests import hostile
from tests.source.formats.test_rows_of_text_formats import documents, faults, planned, write

Job = Callable[..., dict[str, Any]]


def test_no_claimed_number_makes_a_list() -> None:
    """This process could not hold such a list."""
    ranges = cut_spans([Span(0, 2**50, 2**50, 1.0)], 65_536, 1 << 20)
    first = next(ranges)
    assert (first.start, first.stop) == (0, 65_536)


@pytest.mark.parametrize("claim", ["all-rows", "rows-of-groups", "negative-group", "fewer-values"])
def test_a_footer_that_can_not_be_true_fails_its_file(job: Job, corpus: Path, claim: str) -> None:
    files = dict(hostile._claims(corpus / "scratch"))
    (corpus / "scratch").unlink()
    write(corpus / "1.parquet", files[claim])
    made = planned(job(source={"docs": {"path": str(corpus), "format": "parquet", "carry": ["key"]}}))
    assert list(made.failed_files) == ["docs/corpus/1.parquet"]
    assert len(made.split_ids) == 4


@pytest.mark.parametrize("unit", [b'"ab\n",', b'"' + b"x" * 50, b"a,"])
def test_a_row_that_does_not_end_is_rejected_and_those_before_it_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: bytes
) -> None:
    monkeypatch.setattr(delimited, "LONGEST_DOCUMENT", 100_000)
    monkeypatch.setattr(bounds, "MAX_VALUES", 10_000)
    path = write(tmp_path / "a.csv", b"key,text\n1,good\n" + unit * 100_000)
    found = documents(path, Source(path="a.csv", id_column="key"))
    assert found.texts.to_pylist() == ["good"]
    assert {reason for _, reason in faults(found)} == {"invalid_csv"}


def test_rows_behind_one_that_is_too_long_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of Python starts again after an error, so the open quote is closed."""
    monkeypatch.setattr(delimited, "LONGEST_DOCUMENT", 1000)
    behind = b"".join(b"%d,good\n" % number for number in range(20))
    path = write(tmp_path / "a.csv", b"key,text\n1,good\n" + b'"' + b"x\n" * 600 + behind)
    found = documents(path, Source(path="a.csv", id_column="key"))
    assert set(found.texts.to_pylist()) == {"good"}
    assert len(found.texts) > 10


def test_a_line_of_too_many_fields_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_VALUES", 1000)
    path = write(tmp_path / "a.csv", b"key,text\n1,good\n" + b"ab," * 2000 + b"\n2,good\n")
    for newlines in (False, True):
        source = Source(path="a.csv", id_column="key", csv=Csv(newlines_in_fields=newlines))
        found = documents(path, source)
        assert (found.texts.to_pylist(), [why for _, why in faults(found)]) == (
            ["good", "good"],
            ["invalid_csv"],
        )


def test_json_of_too_many_values_costs_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_VALUES", 1000)
    good = b'{"text": "good, good"}\n'
    path = write(tmp_path / "a.jsonl", good + b'{"text": "t", "n": [' + b"[]," * 2000 + b"1]}\n" + good)
    found = documents(path, Source(path="a.jsonl"))
    assert found.texts.to_pylist() == ["good, good"] * 2
    assert [why for _, why in faults(found)] == ["too_long"]


def test_json_that_is_too_deep_to_be_written_again_costs_its_line(tmp_path: Path) -> None:
    depths = range(800, 1100)
    rows = [b'{"text": "t", "n": ' + b"[" * depth + b"]" * depth + b"}" for depth in depths]
    path = write(tmp_path / "a.jsonl", b"\n".join([b'{"text": "t", "n": "x"}', *rows]))
    found = documents(path, Source(path="a.jsonl", carry=("n",)))
    assert len(found.texts) + found.rejects.num_rows == 1 + len(depths)
    assert {why for _, why in faults(found)} <= {"carried_type", "invalid_json"}


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("unit", [b"\n", b"x\n"])
def test_what_expands_to_next_to_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, unit: bytes
) -> None:
    monkeypatch.setattr(bounds, "ALWAYS_EXPANDED", 8 << 20)
    monkeypatch.setattr(bounds, "ALWAYS_ROWS", 1 << 20)
    path = write(tmp_path / f"a.txt{suffix}", hostile.repeated("text", suffix, unit, 12 << 20))
    with pytest.raises(SourceError, match="expands to more than a source may|has more rows than a file"):
        documents(path, Source(path=path.name))


def test_repetitive_files_that_are_honest_stay(tmp_path: Path) -> None:
    """The files repeat the same row, more than a thousand times what is stored, or a few labels."""
    data = json.dumps({"text": "the same, again and again " * 4}).encode() + b"\n"
    path = write(tmp_path / "a.jsonl.zst", pa.compress(data * 60_000, "zstd", asbytes=True))
    assert path.stat().st_size * bounds.EXPANSION < len(data) * 60_000
    found = documents(path, Source(path=path.name), rows_per_split=50_000)
    assert (len(found.texts), found.rejects.num_rows) == (60_000, 0)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one of few labels"] * 300_000}), path)
    found = documents(path, Source(path=path.name), rows_per_split=65_536)
    assert (len(found.texts), found.rejects.num_rows) == (300_000, 0)


@pytest.mark.parametrize("rows", [500, 8192, 20_000])
def test_texts_that_expand_in_a_dictionary_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(bounds, "MAX_READ", 1 << 20)
    table = pa.table({"text": hostile._alike("x" * 20_000, rows)})
    path = write(tmp_path / "a.parquet", hostile.parquet(table, store_schema=rows == 500))
    with pytest.raises(SourceError, match="expand to more than a split may hold"):
        documents(path, Source(path="a.parquet"), rows_per_split=65_536)


def test_memory_that_native_code_wants_is_refused_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"text": hostile._alike("x" * 1_000_000, 4000)})
    path = write(tmp_path / "a.parquet", hostile.parquet(table, store_schema=False))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(SourceError, match="needs too much memory to be read"):
        documents(path, Source(path="a.parquet"), rows_per_split=65_536)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(pa.allocate_buffer(1 << 30)) == 1 << 30  # the limit is gone


def test_large_texts_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """Otherwise a batch of valid documents would be as large as its row group."""
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": [os.urandom(500_000).hex() for _ in range(60)]}), path, use_dictionary=False
    )
    metadata = pq.read_metadata(path)
    assert 20 < _batch_size(metadata, [0], [0])[0] < 60
    assert len(documents(path, Source(path="a.parquet"), rows_per_split=100).texts) == 60


def test_files_that_expand_beyond_their_split_fail_and_their_neighbours_stay(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_READ", 2_000_000)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        write(folder / f"{number}-bomb.gz", gzip.compress(b"x" * 600_000))
        write(folder / f"{number}-good.gz", gzip.compress(b"a document"))
    values = job(source={"s": {"path": str(folder), "format": "text-files"}}, output={"rows_per_shard": 1000})
    made = planned(values)
    [(_, pieces)] = splits = list(made.splits())
    [(_, parts)] = reader.read_splits(splits, parse_config(values), made.columns)
    assert [part.piece for part in parts] == pieces
    failed = [part.piece.file for part in parts if part.error]
    assert failed
    assert all("bomb" in name for name in failed)
    assert all(isinstance(part.error, SourceError) for part in parts if part.error)
    assert sum(part.size for part in parts) <= 2_000_000
    texts = [text for part in reader.usable(parts) for text in part.texts.to_pylist()]
    assert texts.count("a document") == 6
    assert len(texts) == 12 - len(failed)


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_members_without_content_are_counted(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    suffix = {bz2.compress: ".bz2", lzma.compress: ".xz"}[compress]
    some = compress(b"one\n") + compress(b"") * 100 + compress(b"two\n")
    path = write(tmp_path / f"a.txt{suffix}", some)
    assert documents(path, Source(path=path.name)).texts.to_pylist() == ["one", "two"]
    path = write(tmp_path / f"a.txt{suffix}", some + compress(b"") * (compression.MAX_EMPTY + 1))
    with pytest.raises(SourceError, match="of its members are empty"):
        documents(path, Source(path=path.name))


class Fed:
    """A decompressor that records how many bytes of its input it hands back."""

    def __init__(self, handed_back: list[int]) -> None:
        self.inner, self.handed_back = bz2.BZ2Decompressor(), handed_back

    def decompress(self, data: bytes, most: int) -> bytes:
        found = self.inner.decompress(data, most)
        self.handed_back.append(len(self.inner.unused_data))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_small_members_do_not_copy_what_lies_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test does not measure time: it compares the bytes that were handed back with those of the file."""
    handed_back: list[int] = []
    member = bz2.compress(b"x\n")
    data = member * 20_000
    file = pa.BufferReader(data)
    found = b"".join(compression._members(file, lambda: Fed(handed_back), b""))  # type: ignore[arg-type,return-value]
    assert found == b"x\n" * 20_000
    assert sum(handed_back) < 200 * len(data)  # copies of a MiB would give 13,000 times


@pytest.mark.parametrize("edge", [10, 4096, 1 << 18])
def test_members_of_any_size_are_read_whole(edge: int) -> None:
    chunks = [os.urandom(edge + more) for more in (-1, 0, 1, 3 * edge)]
    for compress, fresh, padding in (
        (bz2.compress, bz2.BZ2Decompressor, b""),
        (lzma.compress, lzma.LZMADecompressor, b"\0"),
    ):
        data = padding.join(compress(chunk) for chunk in chunks) if not padding else b"".join(
            compress(chunk) + bytes(8) for chunk in chunks)  # fmt: skip
        assert b"".join(compression._members(pa.BufferReader(data), fresh, padding)) == b"".join(chunks)


def test_lines_that_are_too_many_for_a_range_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples have long lines, and between them there are only line ends."""
    monkeypatch.setattr(bounds, "MAX_ROWS", 1000)
    data = bytearray(b"x" * 99 + b"\n") * 20_000
    data[300_000:320_000] = b"\n" * 20_000
    path = write(tmp_path / "a.txt", bytes(data))
    with pytest.raises(SourceError, match="too many lines in one split"):
        documents(path, Source(path="a.txt"))


def test_a_long_line_takes_few_requests() -> None:
    reads = []

    class Counted(pa.BufferReader):  # type: ignore[misc]
        def read(self, size: int) -> bytes:
            reads.append(size)
            return bytes(super().read(size))

    assert lines.first_line(Counted(b"x" * (20 << 20) + b"\n1\n")) == b"x" * (20 << 20)
    assert len(reads) < 20


def test_only_a_few_threads_hold_large_content(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    most: list[int] = []
    outline = jsonl._object

    def watched(line: bytes, errors: str) -> Any:
        if len(line) > memory.SMALL:
            held.append(1)
            most.append(len(held))
            time.sleep(0.05)
            held.pop()
        return outline(line, errors)

    monkeypatch.setattr(jsonl, "_object", watched)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(8):
        row = json.dumps({"text": "x" * (2 << 20)})
        write(folder / f"{number}.jsonl.gz", gzip.compress(row.encode()))
    parsed = parse_config(job(source={"s": {"path": str(folder), "format": "jsonl"}}))
    found = survey.survey(list_sources(parsed), parsed.source)
    assert not [each for each in found if isinstance(each, SourceError)]
    assert len(most) == 8
    assert max(most) <= memory.LARGE_AT_ONCE


def test_a_file_that_needs_too_much_memory_is_a_failed_one(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field of 60 MiB, for which the reader of Python needs 240 MiB, meets a limit of 200; others stay."""
    monkeypatch.setattr(survey, "FEW_FILES", 0)
    begin = subprocess.Popen

    def limited(command: list[str], *arguments: Any, **keywords: Any) -> Any:
        command = [*command[:-1], command[-1].replace("this.main", "this.MAX_MEMORY = 200 << 20; this.main")]
        return begin(command, *arguments, **keywords)

    monkeypatch.setattr(process_pool.subprocess, "Popen", limited)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        write(folder / f"{name}.csv.gz", hostile.good("csv", ".gz"))
    write(folder / "b.csv.gz", hostile.repeated("csv", ".gz", b"x", 60 << 20, b"\n"))
    parsed = parse_config(job(source={"s": {"path": str(folder), "format": "csv"}}))
    found = survey.survey(list_sources(parsed), parsed.source)
    assert [isinstance(each, SourceError) for each in found] == [False, True, False]
    assert "needs too much memory to be inspected" in str(found[1])


@pytest.mark.parametrize(
    ("code", "had", "failed"),
    [
        (process_pool.OUT_OF_MEMORY, 0, True),
        (-signal.SIGKILL, 2 << 30, True),
        (-signal.SIGKILL, 300 << 20, False),
        (-signal.SIGTERM, 2 << 30, False),
        (-signal.SIGABRT, 0, True),
    ],
)
def test_whose_fault_the_end_of_a_process_is(code: int, had: int, failed: bool) -> None:
    assert (process_pool.DiedError(code, had).error is not None) is failed


def test_what_is_printed_of_a_long_text_costs_little() -> None:
    assert printable("x" * (64 << 20)) == "x" * 500 + "…"
    assert printable("x" * 500) == "x" * 500
