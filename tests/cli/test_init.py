"""Tests the draft of a config: it is what a person would write, and it plans."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import cli
from pipeline.errors import ExitCode

BODIES = [f"a longer text about the harbour at dawn, number {number}" for number in range(30)]
ROWS = [{"nr": 7, "id": f"a{at}", "title": f"day {at}", "body": body} for at, body in enumerate(BODIES)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def parquet(folder: Path) -> Path:
    for part in range(2):
        pq.write_table(pa.table(COLUMNS).slice(15 * part, 15), folder / f"{part}.parquet")
    return folder


def nested(folder: Path) -> Path:
    rows = [{"doc": {"id": row["id"], "text": row["body"]}, "tags": ["a"]} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "0.parquet")
    return folder / "0.parquet"


def jsonl(folder: Path) -> Path:
    lines = "".join(json.dumps(row | {"more": {"lang": "en"}}) + "\n" for row in ROWS)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def objects(folder: Path) -> Path:
    (folder / "export.dat").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder / "export.dat"


def delimited(folder: Path, name: str, delimiter: str, header: bool = True, encoding: str = "utf-8") -> Path:
    rows = [list(COLUMNS)] if header else []
    rows += [[f"{value}".replace(", number", " é") for value in row.values()] for row in ROWS]
    (folder / name).write_bytes("".join(f"{delimiter.join(row)}\n" for row in rows).encode(encoding))
    return folder / name


def lines(folder: Path) -> Path:
    (folder / "corpus.txt").write_text("\n".join(BODIES) + "\n")
    return folder / "corpus.txt"


def files(folder: Path) -> Path:
    for at, body in enumerate(BODIES[:5]):
        (folder / f"{at}.md").write_text(f"# Day {at}\n\n{body}\n")
    (folder / "logo.png").write_bytes(b"\x89PNG")
    return folder


def partitioned(folder: Path) -> Path:
    for day in ("2026-11-26", "2026-11-27"):
        (folder / f"date={day}").mkdir()
        pq.write_table(pa.table(COLUMNS), folder / f"date={day}" / "0.parquet")
    (folder / "README.txt").write_text("about")
    return folder


def delta(folder: Path) -> Path:
    import deltalake

    deltalake.write_deltalake(str(folder / "articles"), pa.table(COLUMNS))
    return folder / "articles"


Make = Callable[[Path], Path]
TEXT_AND_ID = {"text_column": "body", "id_column": "id"}
KINDS: dict[str, tuple[Make, dict[str, Any]]] = {
    "a folder of Parquet": (parquet, {"format": "parquet", **TEXT_AND_ID}),
    "nested columns": (nested, {"format": "parquet", "text_column": "doc.text", "id_column": "doc.id"}),
    "compressed JSON lines": (jsonl, {"format": "jsonl", **TEXT_AND_ID}),
    "objects under another ending": (objects, {"format": "jsonl", **TEXT_AND_ID}),
    "CSV": (lambda folder: delimited(folder, "rows.csv", ","), {"format": "csv", **TEXT_AND_ID}),
    "CSV with semicolons, in cp1252": (
        lambda folder: delimited(folder, "rows.csv", ";", encoding="cp1252"),
        {"format": "csv", "encoding": "cp1252", "csv": {"delimiter": ";"}, **TEXT_AND_ID},
    ),
    "TSV without names": (
        lambda folder: delimited(folder, "rows.tsv", "\t", header=False),
        {
            "format": "tsv", "text_column": "column_4",
            "csv": {"names": [f"column_{at}" for at in range(1, 5)]},
        },
    ),
    "lines": (lines, {"format": "text"}),
    "a folder of documents": (files, {"format": "text-files"}),
    "partitions, and another file": (
        partitioned, {"format": "parquet", "partitions": ["date"], **TEXT_AND_ID},
    ),
    "a Delta table": (delta, {"format": "delta", **TEXT_AND_ID}),
}  # fmt: skip


@pytest.mark.parametrize(("make", "wanted"), KINDS.values(), ids=KINDS)
def test_a_draft_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Make, wanted: dict[str, Any]
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    config = tmp_path / "job.yaml"
    assert cli.main(["init", str(make(folder)), "--output", str(config)]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert f"written: {config}; check it, then: python -m pipeline plan {config}" in printed
    assert config.read_text() in printed
    [source] = yaml.safe_load(config.read_text())["source"].values()
    assert {name: value for name, value in source.items() if name != "path"} == wanted
    assert cli.main(["plan", str(config)]) == ExitCode.DONE
    assert "failed" not in capsys.readouterr().out


def test_what_is_a_guess_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "articles"
    folder.mkdir()
    source = str(partitioned(folder))
    assert cli.main(["init", source, "--output", str(tmp_path / "job.yaml")]) == ExitCode.DONE
    text = (tmp_path / "job.yaml").read_text()
    assert "# Note: 1 other file beside these: a source has one format.\n" in text
    assert f"path: {folder}/**/*.parquet\n" in text
    assert "text_column: body              # a guess: 50 characters on average; others: title 6, id 3" in text
    assert "    id_column: id                  # a guess: unique in the first 30 rows" in text
    assert "# carry: [nr, title]" in text


REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({}, "no file here"),
    "empty files": ({"a.csv": b""}, "all of its files are empty"),
    "one JSON document": ({"a.json": b'[{"a": 1},\n {"a": 2}]'}, "looks like one JSON document"),
    "damaged": ({"a.parquet": b"PAR1PAR1"}, "a.parquet"),
    "not text": ({"a.csv": b"PK\x03\x04" + bytes(200)}, "a.csv"),
    "no text": ({"a.jsonl": b'{"n": 1}\n'}, "no column is text (got n)"),
}


@pytest.mark.parametrize(("files_of", "says"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_a_source_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files_of: dict[str, bytes], says: str
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in files_of.items():
        (folder / name).write_bytes(content)
    assert cli.main(["init", str(folder), "--output", str(tmp_path / "job.yaml")]) == ExitCode.CONFIG
    [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("exit 2")]
    assert says in said
    assert not (tmp_path / "job.yaml").exists()


def test_a_config_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (tmp_path / "job.yaml").write_text("mine")
    assert cli.main(["init", str(lines(folder)), "--output", str(tmp_path / "job.yaml")]) == ExitCode.CONFIG
    assert "is there already; name another by --output" in capsys.readouterr().err
    assert (tmp_path / "job.yaml").read_text() == "mine"


def test_names_of_columns_and_files_stay_data(tmp_path: Path) -> None:
    folder = tmp_path / "so\nurce: x #\x1b[2J"
    folder.mkdir()
    table = pa.table({"te\nxt: {evil}": BODIES, "id": list(range(30)), "\x1b[31m # y": BODIES})
    pq.write_table(table, folder / "0.parquet")
    assert cli.main(["init", str(folder), "--output", str(tmp_path / "job.yaml")]) == ExitCode.DONE
    text = (tmp_path / "job.yaml").read_text()
    assert "\x1b" not in text
    [source] = yaml.safe_load(text)["source"].values()
    assert source["path"] == str(folder)
    assert source["text_column"] in table.column_names
