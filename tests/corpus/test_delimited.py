r"""CSV and TSV of many writers, each with its expected rows: planned, read, and written as a dataset.

The bytes are what each program writes with its defaults, for the same few rows: a quote, a delimiter, a line
end, a backslash, a null, an empty text, and a text beyond ASCII.
"""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config.load import parse_config
from pipeline.estimate.estimate import forecast
from tests.corpus.job import Job, run_here

pytestmark = pytest.mark.usefixtures("flow")
TEXTS = ['He said "hi"', "a, b; c", "one\ntwo", "C:\\temp\\x", "今天 ä", "plain"]


@dataclass(frozen=True)
class Sample:
    """A file as a program writes it.

    told: what the config says of it.  texts: those of its rows in order, None for a row without one.
    """

    name: str
    content: str
    told: dict[str, Any] = field(default_factory=dict)
    texts: tuple[str | None, ...] = (*TEXTS, None)
    encoding: str = "utf-8"


def _python(**dialect: Any) -> str:
    """Writes the rows as Python's csv does, and so as Excel."""
    sink = io.StringIO()
    rows = [("id", "text"), *enumerate(TEXTS), (len(TEXTS), "")]
    csv.writer(sink, **dialect).writerows(rows)
    return sink.getvalue()


def _pandas(**options: Any) -> str:
    frame = pd.DataFrame({"id": range(len(TEXTS) + 1), "text": [*TEXTS, None]})
    return str(frame.to_csv(index=False, **options))


SPARK = r"""id,text
0,"He said \"hi\""
1,"a, b; c"
2,"one
two"
3,C:\temp\x
4,今天 ä
5,plain
6,
"""
SPARK_QUOTE_ALL = r""""id","text"
"0","He said \"hi\""
"1","a, b; c"
"2","one
two"
"3","C:\\temp\\x"
"4","今天 ä"
"5","plain"
"6",""
"""
POSTGRES_CSV = r'''id,text
0,"He said ""hi"""
1,"a, b; c"
2,"one
two"
3,C:\temp\x
4,今天 ä
5,plain
6,
'''
POSTGRES_TEXT = r"""id	text
0	He said "hi"
1	a, b; c
2	one\ntwo
3	C:\\temp\\x
4	今天 ä
5	plain
6	\N
"""
MYSQL = POSTGRES_TEXT.removeprefix("id\ttext\n").replace(r"one\ntwo", "one\\\ntwo")
MYSQL_QUOTED = r"""0,"He said \"hi\""
1,"a, b; c"
2,"one
two"
3,"C:\\temp\\x"
4,"今天 ä"
5,"plain"
6,\N
"""
HIVE = '0\x01He said "hi"\n1\x01a, b; c\n3\x01C:\\temp\\x\n4\x01今天 ä\n5\x01plain\n6\x01\\N\n'
R = r'''"","id","text"
"1",0,"He said ""hi"""
"2",1,"a, b; c"
"3",2,"one
two"
"4",3,"C:\temp\x"
"5",4,"今天 ä"
"6",5,"plain"
"7",6,NA
'''
NAMES = ["id", "text"]
ONE_LINE = tuple(text for text in (*TEXTS, None) if text is None or "\n" not in text)
SAMPLES = {
    "Excel": Sample("a.csv", _python(), encoding="utf-8-sig"),
    "Excel, of Europe": Sample("a.csv", _python(delimiter=";"), {"csv": {"delimiter": ";"}}),
    "Excel, Unicode text": Sample(
        "a.tsv", _python(delimiter="\t"), {"csv": {"quote": '"'}}, encoding="utf-16"
    ),
    "Excel, of China": Sample(
        "a.csv", _python().replace("ä", "a"), {"encoding": "gbk"},
        (*(text.replace("ä", "a") for text in TEXTS), None), "gbk",
    ),
    "pandas": Sample("a.csv", _pandas()),
    "pandas, quoted": Sample("a.csv", _pandas(quoting=csv.QUOTE_ALL)),
    "pandas, escaped": Sample(
        "a.csv", _pandas(escapechar="\\", doublequote=False, quoting=csv.QUOTE_ALL), {"csv": {"escape": "\\"}}
    ),
    "pandas, nulls named": Sample("a.csv", _pandas(na_rep="NaN"), {"csv": {"null_values": ["NaN"]}}),
    "Spark": Sample("a.csv", SPARK, {"csv": {"escape": "\\"}}),
    "Spark, quoted": Sample("a.csv", SPARK_QUOTE_ALL, {"csv": {"escape": "\\"}}),
    "Postgres, CSV": Sample("a.csv", POSTGRES_CSV),
    "Postgres, text": Sample("a.tsv", POSTGRES_TEXT, {"csv": {"escape": "\\", "null_values": ["\\N"]}}),
    "MySQL": Sample("a.tsv", MYSQL, {"csv": {"escape": "\\", "null_values": ["\\N"], "names": NAMES}}),
    "MySQL, quoted": Sample(
        "a.csv", MYSQL_QUOTED, {"csv": {"escape": "\\", "null_values": ["\\N"], "names": NAMES}}
    ),
    "Hive": Sample(
        "a.csv", HIVE,
        {"csv": {"delimiter": "\x01", "quote": "", "null_values": ["\\N"], "names": NAMES}}, ONE_LINE,
    ),
    "R": Sample("a.csv", R, {"csv": {"null_values": ["NA"]}}),
}  # fmt: skip


@pytest.mark.parametrize("writer", SAMPLES)
def test_rows_of_a_writer(job: Job, tmp_path: Path, writer: str) -> None:
    sample = SAMPLES[writer]
    (tmp_path / sample.name).write_bytes(sample.content.encode(sample.encoding))
    source = {"path": str(tmp_path / sample.name), "id_column": "id", "carry": ["text"], **sample.told}
    values = job(source={"s": source})
    planned = forecast(parse_config(values))
    good = [text for text in sample.texts if text]
    assert (planned.texts, planned.rejects) == (len(good), len(sample.texts) - len(good))
    assert "dialect" not in [each.kind for each in planned.cautions]
    found = run_here(values)
    assert found["text"].to_pylist() == good
    assert [TEXTS[int(number)][0] for number in found["id"].to_pylist()] == [text[0] for text in good]


SPACES = 'id,text\n1, "one"\n2, "two"\n'
JOINED = "\ufeffid,text\n1,one\n\ufeffid,text\n2,two\n"


@pytest.mark.parametrize(
    ("content", "clue"), [(SPACES, "has spaces before 2 quotes"), (JOINED, "has its first line 1 times more")]
)
def test_a_plan_tells_what_no_setting_reads(job: Job, tmp_path: Path, content: str, clue: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    found = forecast(parse_config(job(source={"s": {"path": str(tmp_path / "a.csv")}})))
    assert [clue in each.text for each in found.cautions if each.kind == "dialect"] == [True]


CLUES = {
    "Spark": ({}, "csv.escape: '\\'"),
    "Postgres, text": ({}, "csv.null_values: ['\\N']"),
    "Hive": ({"csv": {"delimiter": "\x01", "quote": "", "names": NAMES}}, "csv.null_values"),
    "Excel, of Europe": ({"csv": {"names": NAMES}}, 'csv.delimiter: ";"'),
    "Excel, Unicode text": ({}, "csv.quote: '\"'"),
}


@pytest.mark.parametrize("writer", CLUES)
def test_a_plan_tells_the_dialect_that_would_fit(job: Job, tmp_path: Path, writer: str) -> None:
    sample, (told, setting) = SAMPLES[writer], CLUES[writer]
    (tmp_path / sample.name).write_bytes(sample.content.encode(sample.encoding))
    found = forecast(parse_config(job(source={"s": {"path": str(tmp_path / sample.name), **told}})))
    assert setting in "\n".join(each.text for each in found.cautions if each.kind == "dialect")
