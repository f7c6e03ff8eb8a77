"""Text and JSON Lines of many writers, each with its expected rows: planned, read, and written."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import parse_config
from pipeline.errors import ConfigError
from pipeline.estimate.estimate import forecast
from tests.corpus.job import Job, run_here

pytestmark = pytest.mark.usefixtures("flow")
SPARK = r"""{"id":0,"text":"He said \"hi\"","m":{"v":1.5}}
{"id":1,"text":"one\ntwo"}
{"id":2,"m":{"v":"NaN"}}
"""
PYTHON = '{"id": 0, "text": "\\u4eca\\u5929", "m": {"v": NaN}}\n{"id": 1, "text": null, "m": null}\n'
PANDAS = '{"id":0,"text":"\\u4eca\\u5929","m":{"v":null}}\n{"id":1,"text":null,"m":null}\n'
BLOG = '{"id": 0, "text": "a"}\n'
UNSEEN = "\0\0\n\u200b\n\ufeff\n\u00a0\u3000\n\u00ad"
LINES = ["first", "second, 今天", "last"]
TEXT = "first\nsecond, 今天\n\nlast"
SAMPLES: dict[str, tuple[str, bytes, dict[str, Any], list[str]]] = {
    "JSON of Spark": ("a.jsonl", SPARK.encode(), {"carry": ["m"]}, ['He said "hi"', "one\ntwo"]),
    "JSON of Python": ("a.jsonl", PYTHON.encode(), {"carry": ["m"]}, ["今天"]),
    "JSON of pandas": ("a.jsonl", PANDAS.encode(), {"carry": ["m"]}, ["今天"]),
    "JSON of PowerShell": ("a.jsonl", PYTHON.encode("utf-16"), {"carry": ["m"]}, ["今天"]),
    "JSON of Windows": ("a.jsonl", PYTHON.replace("\n", "\r\n").encode("utf-8-sig"), {}, ["今天"]),
    "JSON of joined files": ("a.jsonl", 2 * BLOG.encode("utf-8-sig"), {}, ["a", "a"]),
    "text of DOS": ("a.txt", TEXT.replace("\n", "\r\n").encode() + b"\r\n\x1a", {}, LINES),
    "text with nothing to see": ("a.txt", f"{TEXT}\n{UNSEEN}".encode(), {}, LINES),
    "text of Unix": ("a.txt", TEXT.encode(), {}, LINES),
    "text of Windows": ("a.txt", TEXT.replace("\n", "\r\n").encode("utf-8-sig"), {}, LINES),
    "text of Notepad, Unicode": ("a.txt", TEXT.encode("utf-16"), {}, LINES),
    "text of China": ("a.txt", TEXT.encode("gb18030"), {"encoding": "gb18030"}, LINES),
    "text of Japan": ("a.txt", TEXT.encode("shift_jis"), {"encoding": "cp932"}, LINES),
    "text of Western Europe": ("a.txt", "café “a”\n".encode("cp1252"), {"encoding": "cp1252"}, ["café “a”"]),
}  # fmt: skip


@pytest.mark.parametrize("writer", SAMPLES)
def test_rows_of_a_writer(job: Job, tmp_path: Path, writer: str) -> None:
    name, content, told, texts = SAMPLES[writer]
    (tmp_path / name).write_bytes(content)
    values = job(source={"s": {"path": str(tmp_path / name), **told}})
    assert forecast(parse_config(values)).texts == len(texts)
    found = run_here(values)
    assert found["source_file"].to_pylist() == [f"s/{name}"] * len(texts)
    if name == "a.jsonl" and "carry" in told:
        for each in found["m"].to_pylist():
            assert each is None or "NaN" not in json.dumps(json.loads(each)).replace('"NaN"', "")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[\n{"text": "a"},\n{"text": "b"}\n]\n', r"is one list of JSON .*jq -c '\.\[\]'"),
        ('[{"text": "a"},\n{"text": "b"}]', r"is one list of JSON .*jq -c '\.\[\]'"),
        ('[{"text": "a"}, {"text": "b"}]', "is one list of JSON"),
        ('{\n  "data": [\n{"text": "a"}\n]}', "has JSON objects that take several lines .*jq -c \\. FILE"),
        (json.dumps({"text": "a", "meta": {}}, indent=2) * 2, "has JSON objects that take several lines"),
    ],
)
def test_json_that_is_not_a_line_each_is_named(job: Job, tmp_path: Path, content: str, told: str) -> None:
    """A part of such a file may be an object on one line, which would be its only row."""
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=told):
        forecast(parse_config(job(source={"s": {"path": f"{tmp_path}/a.jsonl"}})))


def test_numbers_keep_their_digits(job: Job, tmp_path: Path) -> None:
    """Spark and databases write decimals that no 64-bit float holds."""
    large = "123456789012345678901234567890.12"
    lines = [
        f'{{"text": "a", "large": {large}, "price": 1.50, "mixed": "A1", "m": {{"v": [{large}, 1e400]}}}}',
        '{"text": "b", "large": 1.5, "price": 2.25, "mixed": 1.10, "m": {"v": [NaN, 1.5]}}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = {"path": f"{tmp_path}/a.jsonl", "carry": ["large", "price", "mixed", "m"]}
    found = run_here(job(source={"s": source}))
    assert found["large"].to_pylist() == [large, "1.5"]
    assert found["price"].to_pylist() == [1.5, 2.25]
    assert found["mixed"].to_pylist() == ["A1", "1.10"]
    assert found["m"].to_pylist() == [f'{{"v": [{large}, 1e400]}}', '{"v": ["NaN", 1.5]}']


def test_the_texts_of_each_writer_are_the_same(job: Job, tmp_path: Path) -> None:
    """Vectors tell nothing about a text, but its hash does: files of one text in three encodings have one."""
    for encoding in ("utf-8", "utf-16", "utf-32"):
        (tmp_path / f"{encoding}.txt").write_bytes("今天天气\n".encode(encoding))
    found = run_here(job(source={"s": {"path": f"{tmp_path}/*.txt"}}))
    assert (found.num_rows, len(set(found["text_hash"].to_pylist()))) == (3, 1)
