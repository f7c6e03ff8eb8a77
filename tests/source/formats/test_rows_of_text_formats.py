"""Tests of rows and files that can't be read: each is named and costs only itself; good ones stay exact."""

import bz2
import csv
import gzip
import itertools
import json
import lzma
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.config.load import parse_config
from pipeline.config.source import Csv, Source
from pipeline.errors import SourceChangedError, SourceError
from pipeline.model import checkpoint
from pipeline.plan.cut import cut_spans
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan
from pipeline.source import formats, reader
from pipeline.source import piece as pieces_of

Job = Callable[..., dict[str, Any]]


def documents(path: Path, source: Source, rows_per_split: int = 1000) -> formats.Documents:
    """Returns the documents and rejects of a file, read in pieces like those of a plan."""
    info = storage.connect(str(path)).info(str(path))
    found = formats.survey(info, path.name, source)
    ranges = list(cut_spans(found.spans, rows_per_split, 10_000))
    pieces = [
        formats.Piece("s", path.name, info.version, info.size, found.unit, part.start, part.stop)
        for part in ranges
    ]
    columns = pa.schema([("id", pa.string()), *found.columns])
    sifted = [
        formats.separate_rejects(raw, piece, columns, True, source.encoding_errors == "replace")
        for raw, piece in zip(formats.read(str(path), pieces, source, columns), pieces, strict=True)
    ]
    return formats.Documents(
        pa.chunked_array([part.texts for part in sifted], pa.large_string()).combine_chunks(),
        pa.concat_tables([part.rows for part in sifted]),
        pa.concat_tables([part.rejects for part in sifted]),
    )


def faults(found: formats.Documents) -> list[tuple[int, str]]:
    return [(row["source_row"], row["reason"]) for row in found.rejects.to_pylist()]


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# --- lines


def test_a_mark_is_dropped_and_says_the_encoding(tmp_path: Path) -> None:
    for name, compress in (("a.txt", bytes), ("a.txt.gz", gzip.compress)):
        path = write(tmp_path / name, compress("one\ntwo\n".encode("utf-8-sig")))
        assert documents(path, Source(path=name)).texts.to_pylist() == ["one", "two"]
        path = write(tmp_path / name, compress("\ufeff".encode()))
        assert faults(documents(path, Source(path=name))) == [(0, "blank")]
        path = write(tmp_path / name, compress("one\ntwo\n".encode("utf-16")))
        assert documents(path, Source(path=name)).texts.to_pylist() == ["one", "two"]


def test_a_line_without_end_fails_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pieces_of, formats.text_lines.lines, formats.delimited):
        monkeypatch.setattr(module, "LONGEST_DOCUMENT", 100_000)
    data = b"short\n" + b"x" * 5_000_000
    for name, content in (("a.txt", data), ("a.txt.bz2", bz2.compress(data)), ("a.jsonl", data)):
        with pytest.raises(SourceError, match="a line that is too long|no JSON objects"):
            documents(write(tmp_path / name, content), Source(path=name))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "garbage behind", "other magic", "plain"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    compress = {
        ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
        ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }[suffix]  # fmt: skip
    plain = b"".join(b"line %d\n" % n for n in range(1000))
    whole = compress(plain)
    data = {
        "cut": whole[:-20], "garbage behind": whole + b"garbage", "other magic": b"??" + whole[2:],
        "plain": plain,
    }[damage]  # fmt: skip
    with pytest.raises(SourceError, match="can't be read"):
        documents(write(tmp_path / f"a.txt{suffix}", data), Source(path=f"a.txt{suffix}"))
    several = compress(plain[:5000]) + compress(plain[5000:])
    path = write(tmp_path / f"b.txt{suffix}", several)
    assert len(documents(path, Source(path=path.name)).texts) == 1000


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt.bz2", bz2.compress(b"one\n") + bz2.compress(b"") + bz2.compress(b"two\n")),
        ("a.txt.xz", lzma.compress(b"one\n") + bytes(8) + lzma.compress(b"two\n") + bytes(4)),
    ],
)
def test_what_may_lie_between_compressed_streams_is_no_damage(tmp_path: Path, name: str, data: bytes) -> None:
    found = documents(write(tmp_path / name, data), Source(path=name))
    assert found.texts.to_pylist() == ["one", "two"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_without_a_byte_has_no_documents(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.txt{suffix}", b"")
    info = storage.connect(str(path)).info(str(path))
    assert formats.survey(info, path.name, Source(path=path.name)).spans == ()


# --- JSON Lines


def test_lines_of_json_that_are_no_documents_are_rejected(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good", "n": 1}', b"", b"{broken", b'["a", "list"]', b'{"text": 7, "n": 1}', b'{"n": 2}',
        b'{"text": null}', b'{"text": "\xff"}', b'{"text": "lone \\ud800"}',
        b'{"text": "t", "n": "no number"}',
        b"[" * 100_000, b'{"text": "t", "n": 1.5}', b'{"text": "t", "n": true}', b'{"text": " "}',
        b'{"text": "\\u00e4 \\ud83d\\ude00", "n": null}',
    ]  # fmt: skip
    path = write(tmp_path / "a.jsonl", b"\n".join([*lines[:1] * 50, *lines]))
    found = documents(path, Source(path="a.jsonl", carry=("n",)))
    assert found.texts.to_pylist()[49:51] == ["good", "good"]
    reasons = [reason for _, reason in faults(found)]
    assert reasons[:6] == ["blank", "invalid_json", "invalid_json", "not_text", "null", "null"]
    assert "invalid_utf8" in reasons
    assert found.texts.to_pylist()[-1] == "ä 😀"


def test_types_of_carried_json_come_from_samples(tmp_path: Path) -> None:
    rows = [
        {
            "text": "a",
            "i": 1,
            "f": 1,
            "b": True,
            "s": "x",
            "m": 1,
            "o": {"k": [1]},
            "deep": {"er": {"x": "y"}},
        },
        {"text": "b", "i": 2, "f": 2.5, "b": False, "s": None, "m": "1", "o": None, "deep": {}},
    ]
    path = write(tmp_path / "a.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path="a.ndjson", id_column="i", carry=("f", "b", "s", "m", "o", "deep.er.x", "text"))
    found = documents(path, source).rows.drop_columns(["text_hash", "source_file", "source_row"])
    assert [str(kind) for kind in found.schema.types] == [
        "string", "int64", "double", "bool", "string", "string", "string", "string", "string",
    ]  # fmt: skip
    assert [row["m"] for row in found.to_pylist()] == ["1", "1"]
    assert [row["o"] for row in found.to_pylist()] == ['{"k": [1]}', None]
    assert [row["deep_er_x"] for row in found.to_pylist()] == ["y", None]


def test_a_value_that_does_not_fit_the_planned_type_rejects_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "".join(f'{{"text": "t{n}", "n": {n}}}\n' for n in range(60_000)))
    with path.open("a") as file:
        file.write('{"text": "odd", "n": "seven"}\n' + '{"text": "last", "n": 8}\n')
    source = Source(path="a.jsonl", carry=("n",))
    columns = pa.schema([("n", pa.int64())])
    info = storage.connect(str(path)).info(str(path))
    piece = formats.Piece("s", path.name, info.version, info.size, "bytes", info.size - 70, info.size)
    [raw] = formats.read(str(path), [piece], source, columns)
    found = formats.separate_rejects(raw, piece, columns, True, False)
    assert [reason for _, reason in faults(found)] == ["carried_type"]
    assert found.rows.column("n").to_pylist()[-1] == 8


def test_what_is_no_json_lines_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '[\n  "pretty",\n  "printed"\n]\n')
    with pytest.raises(SourceError, match="is one list of JSON"):
        documents(path, Source(path="a.jsonl"))
    path = write(tmp_path / "a.jsonl", "<html>\n</html>\n")
    with pytest.raises(SourceError, match="no JSON objects"):
        documents(path, Source(path="a.jsonl"))
    path = write(tmp_path / "a.jsonl", '{"body": "x"}\n')
    with pytest.raises(SourceError, match="no such column.*'text' among body"):
        documents(path, Source(path="a.jsonl"))


# --- CSV and TSV


def is_visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf")


fields = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=20), lines=st.booleans())
def test_what_pythons_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], lines: bool
) -> None:
    if lines:
        rows = [
            (a.replace("\n", " ").replace("\r", " "), b.replace("\n", " ").replace("\r", " "))
            for a, b in rows
        ]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("key", "text"), *rows])
    source = Source(path="a.csv", id_column="key", csv=Csv(newlines_in_fields=not lines))
    found = documents(path, source, rows_per_split=3)
    assert len(found.texts) + found.rejects.num_rows == len(rows)
    kept = [text for _, text in rows if any(map(is_visible, text))]
    assert found.texts.to_pylist() == kept
    rejected = [reason for _, reason in faults(found)]
    assert set(rejected) <= {"blank"}


@pytest.mark.parametrize("newlines", [True, False])
def test_rows_of_csv_that_can_not_be_read_are_rejected(tmp_path: Path, newlines: bool) -> None:
    lines = [
        b"key,text", b"1,good", b"", b"2,too,many", b"3", b'4,"quoted ""so"""', b"5,\xff", b"6,", b"7,a\rb",
        b"8,end",
    ]  # fmt: skip
    path = write(tmp_path / "a.csv", b"\r\n".join(lines))
    source = Source(path="a.csv", id_column="key", csv=Csv(newlines_in_fields=newlines))
    found = documents(path, source)
    assert found.texts.to_pylist() == ["good", 'quoted "so"', "end"]
    assert [reason for _, reason in faults(found)] == [
        "invalid_csv", "invalid_csv", "invalid_utf8", "blank", "invalid_csv",
    ]  # fmt: skip


def test_a_quote_that_nobody_closes_costs_what_it_swallows_and_no_more(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\nfine\n"open\nlost\n')
    found = documents(path, Source(path="a.csv"))
    assert (found.texts.to_pylist(), faults(found)) == (["fine"], [(1, "invalid_csv")])
    found = documents(path, Source(path="a.csv", csv=Csv(newlines_in_fields=False)))
    assert (found.texts.to_pylist(), [why for _, why in faults(found)]) == (["fine", "lost"], ["invalid_csv"])


@pytest.mark.parametrize("size", [12, 16, 20, 1000])
def test_half_of_a_field_is_no_document_wherever_the_file_is_cut(tmp_path: Path, size: int) -> None:
    """One quote is open at the end of a piece, and one at the end of the file."""
    path = write(tmp_path / "a.csv", 'id,text\n1,"first half\nsecond half"\n2,"unclosed')
    source = Source(path="a.csv", csv=Csv(newlines_in_fields=False))
    info = storage.connect(str(path)).info(str(path))
    edges = [*range(0, info.size, size), info.size]
    pieces = [
        formats.Piece("s", path.name, info.version, info.size, "bytes", start, stop)
        for start, stop in itertools.pairwise(edges)
    ]
    columns = pa.schema([("id", pa.string())])
    raws = formats.read(str(path), pieces, source, columns)
    found = [
        formats.separate_rejects(raw, piece, columns, True, False)
        for raw, piece in zip(raws, pieces, strict=True)
    ]
    assert [text for part in found for text in part.texts.to_pylist()] == []
    assert [why for part in found for _, why in faults(part)] == ["invalid_csv"] * 3


def test_any_delimiter_leaves_the_rows_as_they_are(tmp_path: Path) -> None:
    for newlines in (True, False):
        source = Source(path="a.csv", csv=Csv(delimiter=" ", newlines_in_fields=newlines))
        found = documents(write(tmp_path / "a.csv", "id text\n1 one\n2 two\n"), source)
        assert (found.texts.to_pylist(), faults(found)) == (["one", "two"], [])


def test_csv_in_another_encoding_is_read_by_its_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,one\n2,two\n".encode("utf-16"))
    for newlines in (True, False):
        source = Source(path="a.csv", csv=Csv(names=("id", "text"), newlines_in_fields=newlines))
        assert documents(path, source).texts.to_pylist() == ["one", "two"]


def test_json_lines_longer_than_a_sample(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{i} " + "word " * 20_000}) for i in range(20)]
    found = documents(write(tmp_path / "a.jsonl", "\n".join(rows)), Source(path="a.jsonl"))
    assert len(found.texts) == 20


def test_json_of_blank_lines_is_an_empty_file(tmp_path: Path) -> None:
    found = documents(write(tmp_path / "a.jsonl", "\n\n"), Source(path="a.jsonl", carry=("n",)))
    assert (len(found.texts), [why for _, why in faults(found)]) == (0, ["blank", "blank"])


def test_numbers_that_no_integer_holds_are_carried_as_they_stand(tmp_path: Path) -> None:
    numbers = [2**63, 2**64 - 1, 7]
    rows = "\n".join(json.dumps({"text": "a", "n": number}) for number in numbers)
    found = documents(write(tmp_path / "a.jsonl", rows), Source(path="a.jsonl", carry=("n",)))
    assert found.rows.column("n").to_pylist() == [str(number) for number in numbers]


def test_headers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "1\tone \"quoted\n2\ttwo, 'and more'\n")
    source = Source(path="a.tsv", id_column="n", csv=Csv(names=("n", "text")))
    assert documents(path, source).texts.to_pylist() == ['one "quoted', "two, 'and more'"]
    for data, message in (
        ("a,b\n1,2\n", "no such column.*'text' among a, b"),
        ("text,text\n1,2\n", "a column twice"),
        ("\n1,2\n", "names no columns"),
    ):
        for newlines in (True, False):
            with pytest.raises(SourceError, match=message):
                source = Source(path="a.csv", csv=Csv(newlines_in_fields=newlines))
                documents(write(tmp_path / "a.csv", data), source)


def test_positions_lead_back_to_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\nfirst\n\nsecond\r\nthird")
    found = documents(path, Source(path="a.tsv"))
    data = path.read_bytes()
    starts = found.rows.column("source_row").to_pylist()
    assert [data[start : start + 5] for start in starts] == [b"first", b"secon", b"third"]


# --- all of them


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.txt.gz"])
def test_bytes_that_are_no_utf8_are_rejected_or_replaced(tmp_path: Path, name: str) -> None:
    rows = {
        "a.txt": b"good\nb\xffd\n", "a.txt.gz": gzip.compress(b"good\nb\xffd\n"),
        "a.csv": b"text\ngood\nb\xffd\n", "a.tsv": b"text\ngood\nb\xffd\n",
        "a.jsonl": b'{"text": "good"}\n{"text": "b\xffd"}\n',
    }  # fmt: skip
    path = write(tmp_path / name, rows[name])
    found = documents(path, Source(path=name))
    assert (found.texts.to_pylist(), [why for _, why in faults(found)]) == (["good"], ["invalid_utf8"])
    found = documents(path, Source(path=name, encoding_errors="replace"))
    assert (found.texts.to_pylist(), faults(found)) == (["good", "b\ufffdd"], [])


def test_text_files_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.text_files, "LONGEST_DOCUMENT", 2_000_000)
    cases = {
        "a": b"one\ntwo",
        "b": b"",
        "c": b"\xff",
        "d": b"x" * 3_000_000,
        "e.gz": gzip.compress(b"zipped"),
    }
    found = {}
    for name, data in cases.items():
        path = write(tmp_path / name, data)
        each = documents(path, Source(path=str(tmp_path), format="text-files"))
        found[name] = each.texts.to_pylist() or faults(each)
    assert found == {
        "a": ["one\ntwo"], "b": [(0, "blank")], "c": [(0, "invalid_utf8")], "d": [(0, "too_long")],
        "e.gz": ["zipped"],
    }  # fmt: skip


def test_nested_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "doc": pa.array([{"body": "one", "n": 1}, None, {"body": None, "n": 3}]),
            "flat.name": ["a", "b", "c"],
            "unread": ["x" * 100_000] * 3,
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, use_dictionary=False)
    found = documents(path, Source(path="a.parquet", text_column="doc.body", carry=("doc.n", "flat.name")))
    assert found.texts.to_pylist() == ["one"]
    assert faults(found) == [(1, "null"), (2, "null")]
    assert found.rows.select(["doc_n", "flat_name"]).to_pylist() == [{"doc_n": 1, "flat_name": "a"}]
    with pytest.raises(SourceError, match="no such column.*doc.text"):
        documents(path, Source(path="a.parquet", text_column="doc.text"))


# --- plans of them


@pytest.mark.parametrize("odd", ["0", "9"])
def test_json_of_two_types_is_text(job: Job, tmp_path: Path, odd: str) -> None:
    """This holds whichever file comes first: samples are not a schema."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (odd, "1", "2"):
        value = "n/a" if name == odd else int(name)
        write(folder / f"{name}.jsonl", json.dumps({"text": "a", "y": value}))
    found = planned(job(source={"s": {"path": f"{folder}/*.jsonl", "carry": ["y"]}}))
    assert found.failed_files == {}
    assert found.columns.field("y").type == pa.string()


def test_what_a_library_trips_over_costs_its_file_alone(job: Job, corpus: Path) -> None:
    """The name of a column is not UTF-8; a link leads nowhere; nobody writes to a pipe."""
    path = corpus / "1.parquet"
    path.write_bytes(path.read_bytes().replace(b"topic", b"top\xefc"))
    (corpus / "8.parquet").symlink_to(corpus / "nowhere")
    os.mkfifo(corpus / "9.parquet")
    found = planned(job())
    assert list(found.failed_files) == ["docs/1.parquet", "docs/8.parquet"]
    assert len(found.split_ids) == 4


def planned(values: dict[str, Any], digest: str = "digest") -> Plan:
    parsed = parse_config(values)
    return make_plan(parsed, checkpoint.resolve(parsed.model.name), digest)


def test_keys_of_folders_are_carried(job: Job, tmp_path: Path) -> None:
    for key, value in (
        ("date=2026-01-01/lang=d%20e", "one"),
        ("date=__HIVE_DEFAULT_PARTITION__/lang=en", "two"),
        ("date=%FF/lang=%zz+", "four"),  # which stand for no text: the names are values as they are
    ):
        folder = tmp_path / "in" / key
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(value)
    (tmp_path / "in" / "b.txt").write_text("three")
    source = {"path": f"{tmp_path}/in/**/*.txt", "partitions": ["date", "lang"]}
    values = job(source={"s": source})
    made = planned(values)
    assert made.columns.names == ["id", "date", "lang"]
    assert "no such partition" in made.failed_files["s/b.txt"]
    read = reader.read_splits(made.splits(), parse_config(values), made.columns)
    parts = [part for _, split in read for part in split]
    found = [part.documents.rows.select(["date", "lang"]).to_pylist() for part in parts if part.documents]
    assert sorted(found, key=str) == [
        [{"date": "%FF", "lang": "%zz+"}],
        [{"date": "2026-01-01", "lang": "d e"}],
        [{"date": None, "lang": "en"}],
    ]


def test_one_more_small_file_disturbs_its_neighbours_alone(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(400):
        (folder / f"{number:04d}.txt").write_text("x" * int(chance.integers(10, 4000)))
    values = job(
        source={"s": {"path": f"{folder}", "format": "text-files"}},
        output={"max_split_bytes": 40_000, "rows_per_shard": 65_536},
    )
    made = planned(values)
    before = made.split_ids.to_pylist()
    assert 400 * 2000 / 40_000 < len(before) < 4 * 400 * 2000 / 40_000
    for _, pieces in made.splits():
        assert sum(piece.size for piece in pieces) <= 40_000
    changed = []
    for name in ("0100x.txt", "0300.txt"):
        (folder / name).write_text("y" * 3000)
        after = planned(values).split_ids.to_pylist()
        changed.append(len(set(after) - set(before)))
        before = after
    (folder / "0200.txt").unlink()
    changed.append(len(set(planned(values).split_ids.to_pylist()) - set(before)))
    assert max(changed) <= 3


def test_a_bad_file_in_a_split_of_several_costs_itself(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"text {number}\n")
    values = job(source={"s": {"path": f"{folder}/*.txt"}}, output={"rows_per_shard": 65_536})
    parsed, made = parse_config(values), planned(values)
    splits = list(made.splits())
    (folder / "1.txt").write_text("changed\n")
    (folder / "3.txt").unlink()
    [(_, parts)] = reader.read_splits(splits, parsed, made.columns)
    assert [isinstance(part.error, SourceChangedError) for part in parts] == [False, True, False, True, False]
    assert [part.texts.to_pylist() for part in reader.usable(parts)] == [["text 0"], ["text 2"], ["text 4"]]
    with pytest.raises(SourceChangedError):
        reader.usable([part for part in parts if part.error])


def test_splits_of_a_large_row_group_are_read_in_one_scan(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(1000)]}), path, row_group_size=600)
    values = job(source={"s": {"path": str(path)}}, output={"rows_per_shard": 100})
    scans = list(planned(values).scans())
    assert [[(p.start, p.stop) for _, [p] in scan] for scan in scans] == [
        [(start, start + 100) for start in range(0, 600, 100)],
        [(start, start + 100) for start in range(600, 1000, 100)],
    ]
    parsed, made = parse_config(values), planned(values)
    for scan in (scans[0], scans[0][2:]):  # all splits, and those that a killed run left
        pieces = [piece for _, [piece] in scan]
        found = [
            part.documents.texts.to_pylist()
            for _, [part] in reader.read_splits(scan, parsed, made.columns)
            if part.documents
        ]
        assert found == [[f"text {n}" for n in range(piece.start, piece.stop)] for piece in pieces]
