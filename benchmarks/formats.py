"""Measures every format with every compression in two sizes; makes the table of docs/formats.md.

Each cell is a corpus that another library wrote than the one that reads it. It is planned, and read through
the storage interface as in the pipeline. Its rows and texts must be exactly those that were written.
"""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import telemetry
from pipeline.config.load import parse_config
from pipeline.model import checkpoint
from pipeline.plan.make import make_plan
from pipeline.source import reader

PAGE = Path("docs/formats.md")
MARKS = "<!-- made by benchmarks/formats.py -->\n", "<!-- until here -->\n"
WORDS = [
    "the",
    "of",
    "naïve",
    "東京",
    "“quoted”",
    "a,b",
    "tab\there",
    "✓",
    "é",
    "end.",
    "3.14",
    "\u2028",
    "x=y",
    "{}",
    "[]",
    "\\n",
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=1),
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}
FORMATS = ("text", "text-files", "jsonl", "csv", "csv, a row a line", "tsv", "parquet")
SIZES = {"many small files": (60, 30), "one larger file": (1, 40_000)}
"""The number of files, and the rows of each."""


@dataclass(frozen=True)
class Cell:
    """The measurements of one corpus."""

    files: int
    splits: int
    rows: int
    text_bytes: int
    source_bytes: int
    planned_bytes: int
    read_bytes: int
    seconds: float
    exact: bool


def texts_of(kind: str, count: int, seed: int) -> list[str]:
    """Returns texts that a format can hold, as awkward as it allows."""
    chance = random.Random(seed)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 40))) + f" {row}" for row in range(count)]
    if kind in ("jsonl", "csv", "text-files", "parquet"):
        texts = [text.replace(" end.", '\n"second" line,\r\nthird') for text in texts]
    return [text.replace("\t", " ") for text in texts] if kind == "tsv" else texts


def encoded(kind: str, texts: Sequence[str]) -> bytes:
    """Returns a file of a format, written by the library that people use for it."""
    rows = [{"key": f"k{row}", "text": text} for row, text in enumerate(texts)]
    if kind == "text":
        return "".join(f"{text}\n" for text in texts).encode()
    if kind == "text-files":
        return texts[0].encode()
    if kind == "jsonl":
        return "".join(
            json.dumps(row, ensure_ascii=bool(n % 2)) + "\n" for n, row in enumerate(rows)
        ).encode()
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=20_000)
        return sink.getvalue()
    file = io.StringIO()
    quoting = {"quoting": csv.QUOTE_NONE, "delimiter": "\t", "quotechar": None} if kind == "tsv" else {}
    writer = csv.writer(file, **quoting)  # type: ignore[arg-type]
    writer.writerows([("key", "text"), *((row["key"], row["text"]) for row in rows)])
    return file.getvalue().encode()


def written(folder: Path, kind: str, suffix: str, files: int, rows: int) -> dict[str, list[str]]:
    """Writes a corpus; returns the texts by the name of their file."""
    if kind == "text-files":
        files, rows = files * min(rows, 50), 1
    found = {}
    for number in range(files):
        texts = texts_of(kind, rows, number)
        name = f"{number:04d}.{kind.split(' ', maxsplit=1)[0]}{suffix}"
        (folder / name).write_bytes(COMPRESS[suffix](encoded(kind, texts)))
        found[name] = texts
    return found


def cell(folder: Path, kind: str, suffix: str, files: int, rows: int, max_split_bytes: int) -> Cell:
    """Writes a corpus, plans it, reads it, and compares."""
    wanted = written(folder, kind, suffix, files, rows)
    job = parse_config(values(folder, kind, max_split_bytes))
    started = time.perf_counter()
    made = make_plan(job, checkpoint.resolve("albert-mini"), "digest")
    before = telemetry.read_bytes.total()
    found: dict[str, list[str]] = {}
    for scan in made.scans():
        for part in itertools.chain.from_iterable(
            parts for _, parts in reader.read_splits(scan, job, made.columns)
        ):
            assert part.documents is not None, part.error
            found.setdefault(part.piece.file, []).extend(part.documents.texts.to_pylist())
    seconds = time.perf_counter() - started
    return Cell(
        files=len(wanted),
        splits=len(made.split_ids),
        rows=sum(map(len, found.values())),
        text_bytes=sum(len(text.encode()) for texts in found.values() for text in texts),
        source_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        planned_bytes=sum(made.pieces.column("stored_bytes").to_pylist()),
        read_bytes=telemetry.read_bytes.total() - before,
        seconds=seconds,
        exact=found == wanted,
    )


def values(folder: Path, kind: str, max_split_bytes: int) -> dict[str, Any]:
    """Returns the config of a corpus."""
    source: dict[str, Any] = {"path": str(folder / "*"), "format": kind.split(",", maxsplit=1)[0]}
    if kind.endswith("a row a line"):
        source["csv"] = {"newlines_in_fields": False}
    if not kind.startswith("text"):
        source |= {"text_column": "text", "id_column": "key"}
    output = {"path": str(folder.parent / "out"), "max_split_bytes": max_split_bytes}
    return {"source": {"s": source}, "output": output}


def cases() -> Iterator[tuple[str, str, str]]:
    """Yields format, ending of the compression, and size of each cell."""
    for kind, suffix, size in itertools.product(FORMATS, COMPRESS, SIZES):
        if not (kind == "parquet" and suffix) and not (kind == "text-files" and size == "one larger file"):
            yield kind, suffix, size


def table(scale: int = 1) -> str:
    """Formats all cells as a Markdown table."""
    lines = [
        "| format | compression | | files | splits | rows | text MB | read of stored | text MB/s |\n",
        "|---|---|---|---|---|---|---|---|---|\n",
    ]
    for kind, suffix, size in cases():
        files, rows = SIZES[size]
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "in"
            folder.mkdir()
            found = cell(folder, kind, suffix, files, rows * scale, 2 << 20)
        assert found.exact, (kind, suffix, size)
        megabytes = found.text_bytes / 1e6
        lines.append(
            f"| {kind} | {suffix or 'none'} | {size} | {found.files} | {found.splits} | {found.rows:,} "
            f"| {megabytes:.1f} | {found.read_bytes / found.source_bytes:.2f} "
            f"| {megabytes / found.seconds:.0f} |\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    begin, end = MARKS
    head, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(head + begin + table() + end + rest.partition(end)[2])
