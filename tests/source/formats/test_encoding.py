"""Tests of files in other encodings than UTF-8: read by name or by their mark, wherever a block ends."""

import codecs
import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.config.load import parse_config
from pipeline.config.source import Csv, Source
from pipeline.errors import ConfigError, SourceError
from pipeline.source import formats
from pipeline.source.formats.encoding import as_utf8
from tests.source.formats.test_rows_of_text_formats import documents, faults, write

LINES = ["first line", "今天天气很好", "第二行,有逗号", "last 行"]


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "big5", "shift_jis", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_an_encoding(tmp_path: Path, encoding: str, compress: Any, end: str) -> None:
    lines = ["first line", "今天", "中文, 行", "last"] if encoding in ("big5", "shift_jis") else LINES
    name = "a.txt" if compress is bytes else "a.txt.gz"
    path = write(tmp_path / name, compress("".join(line + end for line in lines).encode(encoding)))
    source = Source(path=name, encoding=encoding)
    info = storage.connect(str(path)).info(str(path))
    assert formats.survey(info, name, source).unit == "rows"  # a LF byte may be a part of a character
    found = documents(path, source, rows_per_split=2)
    assert found.texts.to_pylist() == lines
    assert found.rows["source_row"].to_pylist() == [0, 1, 2, 3]


def test_every_format_of_text_has_an_encoding(tmp_path: Path) -> None:
    content = {
        "a.txt": "今天\n", "a.csv": "id,text\n1,今天\n", "a.tsv": "id\ttext\n1\t今天\n",
        "a.jsonl": '{"id": 1, "text": "今天"}\n',
    }  # fmt: skip
    for name, text in content.items():
        found = documents(write(tmp_path / name, text.encode("gbk")), Source(path=name, encoding="gbk"))
        assert found.texts.to_pylist() == ["今天"]
    path = write(tmp_path / "a", "今天\n".encode("gbk"))
    assert documents(path, Source(path="a", format="text-files", encoding="gbk")).texts.to_pylist() == [
        "今天\n"
    ]


def test_csv_whose_lines_are_rows_is_not_cut_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "编号,正文\n1,今天\n".encode("gbk"))
    told = {"text_column": "正文", "id_column": "编号", "encoding": "gbk"}
    source = Source(path="a.csv", csv=Csv(newlines_in_fields=False), **told)
    found = documents(path, source)
    assert (found.rows["编号"].to_pylist(), found.texts.to_pylist()) == (["1"], ["今天"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("told", ["utf-8", "gbk"])
def test_a_mark_wins(tmp_path: Path, encoding: str, told: str) -> None:
    for name in ("a.txt", "a.csv", "a.jsonl", "a"):
        kind = {"format": "text-files"} if name == "a" else {}
        line = '{"text": "今天"}' if name == "a.jsonl" else "今天"
        path = write(tmp_path / name, f"{'text' + chr(10) if name == 'a.csv' else ''}{line}".encode(encoding))
        assert documents(path, Source(path=name, encoding=told, **kind)).texts.to_pylist() == ["今天"]


def test_a_file_of_a_mark_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", codecs.BOM_UTF16_LE)
    info = storage.connect(str(path)).info(str(path))
    assert formats.survey(info, path.name, Source(path="a.txt")).spans == ()


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [("gbk", b"\x81\n"), ("gbk", b"\xff\n"), ("shift_jis", b"\x81\n"), ("utf-16-le", b"\0\xd8\n\0")],
)
def test_bytes_that_are_no_text_cost_their_row(tmp_path: Path, encoding: str, bad: bytes) -> None:
    good = "今\n".encode(encoding)
    path = write(tmp_path / "a.txt", good + "a".encode(encoding) + bad + good)
    found = documents(path, Source(path="a.txt", encoding=encoding))
    assert (found.texts.to_pylist(), faults(found)) == (["今", "今"], [(1, "invalid_utf8")])
    found = documents(path, Source(path="a.txt", encoding=encoding, encoding_errors="replace"))
    assert found.texts.to_pylist() == ["今", "a\ufffd", "今"]


def test_half_a_character_at_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "今\n天".encode("utf-16-le")[:-1])
    found = documents(path, Source(path="a.txt", encoding="utf-16-le"))
    assert (found.texts.to_pylist(), faults(found)) == (["今"], [(1, "invalid_utf8")])


@settings(deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    size=st.integers(1, 9),
    encoding=st.sampled_from(["utf-16-le", "utf-32-be", "gb18030", "utf-7", "utf-8"]),
)
def test_blocks_end_anywhere(text: str, size: int, encoding: str) -> None:
    text = text.lstrip("\ufeff\ufffe")
    data = ("x" + text).encode(encoding)
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    assert b"".join(as_utf8(blocks, Source(path="a.txt", encoding=encoding))).decode() == "x" + text


@pytest.mark.parametrize("kind", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.txt.gz"])
def test_utf_16_without_a_mark_is_named(tmp_path: Path, kind: str, name: str) -> None:
    data = '{"text": "a"}\ntext\n'.encode(kind)
    path = write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(SourceError, match=f"looks like UTF-16.*set source.encoding to {kind}"):
        documents(path, Source(path=name))


@pytest.mark.parametrize("name", ["base64", "rot13", "no-such", "idna", "unicode_escape", "undefined", ""])
def test_what_is_no_encoding_is_refused(name: str) -> None:
    source = {"path": "a.csv", "encoding": name}
    with pytest.raises(ConfigError, match="is not an encoding"):
        parse_config({"source": {"s": source}, "output": {"path": "out"}})


def test_parquet_has_no_encoding() -> None:
    source = {"path": "a.parquet", "encoding": "gbk"}
    with pytest.raises(ConfigError, match="means nothing to parquet"):
        parse_config({"source": {"s": source}, "output": {"path": "out"}})
    assert {Source(path="a.csv", encoding=each).encoding for each in ("UTF8", "utf_8", "utf-8-sig")} == {
        "utf-8"
    }
