"""Tests of the dialects of CSV: escapes, nulls and strict quotes; and of files in another than told."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.load import parse_config
from pipeline.config.source import Csv, Source
from pipeline.errors import ConfigError, SourceError
from tests.source.formats.test_rows_of_text_formats import documents, faults, write

SPARK = Csv(escape="\\")


def texts(path: Path, **dialect: Any) -> list[str]:
    """Returns the texts of a file, and behind them the reasons of its rejects."""
    found = documents(path, Source(path=path.name, csv=Csv(**dialect)), rows_per_split=2)
    return [*found.texts.to_pylist(), *(why for _, why in faults(found))]


@pytest.mark.parametrize("newlines", [True, False])
def test_text_behind_a_closing_quote_is_no_part_of_a_field(tmp_path: Path, newlines: bool) -> None:
    path = write(
        tmp_path / "a.csv", 'id,text\n1,"said "hi" to"\n2,"a"b\n3,good\n4,"so ""good"""\n5,5" disk\n'
    )
    assert texts(path, newlines_in_fields=newlines) == [
        "good", 'so "good"', '5" disk', "invalid_csv", "invalid_csv",
    ]  # fmt: skip


@pytest.mark.parametrize("newlines", [True, False])
def test_backslashes_of_spark_are_read_or_rejected(tmp_path: Path, newlines: bool) -> None:
    lines = [
        "key,text", r'1,"He said \"hi\""', r'2,"a \"quoted, with comma\" part"', r"3,ends with \,",
        r'4,"C:\\t\"x\""', r'5,"a\nb"', "6,plain",
    ]  # fmt: skip
    path = write(tmp_path / "a.csv", "\n".join(lines) + "\n")
    told = {"newlines_in_fields": newlines}
    assert texts(path, **told) == ["a\\nb", "plain", *["invalid_csv"] * 4]
    path = write(tmp_path / "b.csv", "\n".join(line.removesuffix(",") for line in lines) + "\n")
    assert texts(path, escape="\\", **told) == [
        'He said "hi"', 'a "quoted, with comma" part', "ends with \\", 'C:\\t"x"', "a\\nb", "plain",
    ]  # fmt: skip


def test_a_field_of_several_lines_with_escapes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'key,text\r\n1,"one\n\n\\"two\\"\\\\"\r\n\r\n2,"a""b"\n3,"open\nlost')
    assert texts(path, escape="\\") == ['one\n\n"two"\\', "invalid_csv", "invalid_csv"]


def fields(alphabet: str) -> Any:
    return st.text(st.sampled_from(alphabet), min_size=1, max_size=8).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(values=st.lists(fields('ab",\\\n\r; '), min_size=1, max_size=12), quote_all=st.booleans())
def test_what_spark_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], quote_all: bool
) -> None:
    """Spark quotes what has a quote, a delimiter or a line end, and escapes quotes and backslashes there."""

    def written(value: str) -> str:
        if not quote_all and not any(each in value for each in '",\n\r'):
            return value
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    content = "text\n" + "".join(written(value) + "\n" for value in values)
    path = write(tmp_path_factory.mktemp("spark") / "a.csv", content)
    found = documents(path, Source(path="a.csv", csv=SPARK), rows_per_split=3)
    assert found.texts.to_pylist() == values


@settings(deadline=None, max_examples=60)
@given(values=st.lists(fields("ab\\\t\n\r N"), min_size=1, max_size=12), mysql=st.booleans())
def test_what_mysql_and_postgres_write_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], mysql: bool
) -> None:
    def written(value: str) -> str:
        told = {"\\": "\\\\", "\t": "\\\t", "\n": "\\\n"} if mysql else {
            "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"
        }  # fmt: skip
        return "".join(told.get(each, each) for each in value)

    if mysql:
        values = [value.replace("\r", "") or "a" for value in values]
        values = [value for value in values if value.strip()] or ["a"]
    content = "".join(f"{number}\t{written(value)}\n" for number, value in enumerate(values))
    path = write(tmp_path_factory.mktemp("tsv") / "a.tsv", content)
    source = Source(path="a.tsv", csv=Csv(escape="\\", names=("id", "text"), null_values=("\\N",)))
    assert documents(path, source, rows_per_split=3).texts.to_pylist() == values


@pytest.mark.parametrize("newlines", [True, False])
@pytest.mark.parametrize("escape", [None, "\\"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_nulls_are_nulls_of_texts_and_of_carried_columns(
    tmp_path: Path, escape: str | None, quote: str, newlines: bool
) -> None:
    content = "key,text,lang\n1,one,\\N\n2,\\N,en\n3,NULL,de\n4,a\\\\N,x\n" + ('5,"\\N",y\n' if quote else "")
    path = write(tmp_path / "a.csv", content)
    told = Csv(escape=escape, quote=quote, null_values=("\\N", "NULL"), newlines_in_fields=newlines)
    found = documents(path, Source(path="a.csv", id_column="key", carry=("lang",), csv=told))
    escaped = "a\\N" if escape and not quote else "a\\\\N"
    assert found.texts.to_pylist() == ["one", escaped, *(["\\N"] if quote else [])]
    assert found.rows["lang"].to_pylist() == [None, "x", *(["y"] if quote else [])]
    assert [why for _, why in faults(found)] == ["null", "null"]


def test_an_escape_that_is_the_quote_is_the_default() -> None:
    assert Source(path="a.csv", csv=Csv(escape='"')) == Source(path="a.csv")


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        ({"escape": ","}, "delimiter ',' is the quote or the escape"),
        ({"escape": "\n"}, "ends a line"),
        ({"escape": "ab"}, "at most 1"),
        ({"delimiter": '"'}, "is the quote or the escape"),
    ],
)
def test_dialects_that_can_not_be(dialect: dict[str, Any], message: str) -> None:
    source = {"path": "a.csv", "csv": dialect}
    with pytest.raises(ConfigError, match=message):
        parse_config({"source": {"s": source}, "output": {"path": "out"}})


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("newlines", [True, False])
def test_lines_that_end_with_cr_are_named(
    tmp_path: Path, name: str, compressed: bool, newlines: bool
) -> None:
    data = b'{"text": "a"}\r{"text": "b"}\r' if name == "a.jsonl" else b"text\rone\rtwo\r"
    name = f"{name}.gz" if compressed else name
    path = write(tmp_path / name, gzip.compress(data) if compressed else data)
    dialect = {"csv": Csv(newlines_in_fields=newlines)} if "csv" in name else {}
    with pytest.raises(SourceError, match=r"its lines end with CR alone.*tr '\\r' '\\n'"):
        documents(path, Source(path=name, **dialect))


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_lines_of_a_mainframe_are_named(tmp_path: Path, name: str) -> None:
    """All of its lines would be one text: in EBCDIC the end of a line is NEL."""
    path = write(tmp_path / name, "text\x85one\x85two\x85".encode("cp037"))
    with pytest.raises(SourceError, match="its lines end with NEL alone"):
        documents(path, Source(path=name, encoding="cp037"))
    path = write(tmp_path / name, "text\none\x85two\n".encode("cp037"))
    assert documents(path, Source(path=name, encoding="cp037")).texts.to_pylist()[-1] == "one\x85two"


@pytest.mark.parametrize(("note", "delimiter"), [("sep=;", ";"), ("sep=;\r", ","), ("sep=,", ",")])
@pytest.mark.parametrize("newlines", [True, False])
def test_a_note_to_excel_is_named(tmp_path: Path, note: str, delimiter: str, newlines: bool) -> None:
    path = write(tmp_path / "a.csv", f"{note}\nid{delimiter}text\n1{delimiter}one\n")
    dialect = Csv(delimiter=delimiter, newlines_in_fields=newlines)
    with pytest.raises(SourceError, match="its first line is a note to Excel .*remove this line"):
        documents(path, Source(path="a.csv", csv=dialect))


def test_a_few_crs_in_a_long_line_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\rb" + "c" * 10_000)
    assert len(documents(path, Source(path="a.txt")).texts) == 1


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("id;text\n1;one\n", 'set csv.delimiter to ";"'),
        ("id\ttext\n1\tone\n", r'set csv.delimiter to "\\t"'),
        ("key,body\n1,one\n", "check text_column, id_column and csv"),
    ],
)
def test_a_header_in_another_dialect_is_named(tmp_path: Path, data: str, hint: str) -> None:
    with pytest.raises(SourceError, match=f"has no such column.*{hint}"):
        documents(write(tmp_path / "a.csv", data), Source(path="a.csv"))


@pytest.mark.parametrize("newlines", [True, False])
def test_a_header_in_another_encoding_is_named(tmp_path: Path, newlines: bool) -> None:
    path = write(tmp_path / "a.csv", "编号,正文\n1,今天\n".encode("gbk"))
    source = Source(path="a.csv", text_column="正文", csv=Csv(newlines_in_fields=newlines))
    with pytest.raises(SourceError, match="its first line is not UTF-8.*source.encoding.*gbk") as error:
        documents(path, source)
    assert str(error.value).isprintable()
