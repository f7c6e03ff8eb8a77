"""Tests nights over a changing corpus: each dataset equals a full run's, and readers never notice.

On some of the nights every file is rewritten under another name and with other rows in it, as Spark does.
"""

import datetime
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import sections
from pipeline.config.load import _dated, parse_config
from pipeline.driver import run
from pipeline.errors import ExitCode
from pipeline.verify import verify
from tests.conftest import make_checkpoint

pytestmark = pytest.mark.usefixtures("ray_cluster")
Job = Callable[..., dict[str, Any]]
FIRST = datetime.date(2026, 11, 1)


class Corpus:
    """Files of rows in a folder or bucket, and their changes from night to night.

    Args:
        renamed: the nights on which every file is renamed and the rows are divided among files again.
    """

    def __init__(self, root: str, files: int, rows: int, renamed: Collection[int]) -> None:
        self.renamed = renamed
        self.root, self.store = root, storage.connect(root)
        self.random, self.next_key = np.random.default_rng(0), 0
        self.files = {f"{number:03d}": self.new_rows(rows) for number in range(files)}
        self.written: dict[str, bytes] = {}

    def new_rows(self, count: int) -> list[tuple[int, str]]:
        keys = range(self.next_key, self.next_key + count)
        self.next_key += count
        return [(key, f"row {key} is about topic {key % 97} and no other") for key in keys]

    def change(self, night: int) -> None:
        """Adds a file, removes one, appends to some, and edits one row in a hundred."""
        names = sorted(self.files)
        self.files.pop(names[night % len(names)])
        size = len(next(iter(self.files.values())))
        self.files[f"new{night}"] = self.new_rows(size // 2)
        for name in names[2:5]:
            if name in self.files:
                self.files[name] = self.files[name] + self.new_rows(size // 20)
        for name, rows in self.files.items():
            edited = set(self.random.choice(len(rows), len(rows) // 100, replace=False).tolist())
            if int(name[-1]) % 4 == night % 4:  # edits four times as many rows in a quarter of the files
                edited |= set(self.random.choice(len(rows), 3 * len(rows) // 100, replace=False).tolist())
                self.files[name] = [
                    (key, f"{text}, edited on night {night}") if at in edited else (key, text)
                    for at, (key, text) in enumerate(rows)
                ]
        if night in self.renamed:
            everything = [row for name in sorted(self.files) for row in self.files[name]]
            order = self.random.permutation(len(everything)).tolist()
            count = len(self.files)
            self.files = {
                f"part{night}-{number:03d}": [everything[at] for at in order[number::count]]
                for number in range(count)
            }

    def write(self, night: int) -> None:
        """Writes files that differ, and rewrites two equal ones in other row groups."""
        for name in self.written.keys() - self.files.keys():
            self.store.remove(f"{self.root}/{name}.parquet")
            del self.written[name]
        rewritten = sorted(self.files)[:2]
        for name, rows in self.files.items():
            groups = 1000 + night if name in rewritten else 5000
            sink = pa.BufferOutputStream()
            table = pa.table({"key": [key for key, _ in rows], "text": [text for _, text in rows]})
            pq.write_table(table, sink, row_group_size=groups)
            data = sink.getvalue().to_pybytes()
            if self.written.get(name) != data:
                self.store.put(f"{self.root}/{name}.parquet", data)
                self.written[name] = data

    def texts(self) -> set[str]:
        return {text for rows in self.files.values() for _, text in rows}

    @property
    def rows(self) -> int:
        return sum(map(len, self.files.values()))


def read(root: str) -> pa.Table:
    store = storage.connect(root)
    names = [info.path for name, info in store.list_files(f"{root}/data").items() if name != "_SUCCESS"]
    tables = [pq.read_table(pa.BufferReader(store.read(name))) for name in names]
    return pa.concat_tables(tables).sort_by([("source_file", "ascending"), ("source_row", "ascending")])


def assert_same(ours: pa.Table, wanted: pa.Table) -> None:
    assert ours.schema == wanted.schema
    assert ours.drop_columns(["embedding"]).equals(wanted.drop_columns(["embedding"]))
    vectors = (np.stack(table.column("embedding").to_numpy()) for table in (ours, wanted))
    np.testing.assert_allclose(*vectors, atol=1e-5)


@contextmanager
def reader(series: str) -> Iterator[list[str]]:
    """Follows LATEST.json all the time; yields the names of what it read. It raises what went wrong."""
    store, stop, seen, failed = storage.connect(series), threading.Event(), [], []

    def follow() -> None:
        while not stop.wait(0.05):
            try:
                if not store.exists(f"{series}/LATEST.json"):
                    assert not seen, "LATEST.json is gone"
                    continue
                latest = json.loads(store.read(f"{series}/LATEST.json"))
                shards = store.list_files(f"{series}/{latest['dataset']}/data")
                assert shards.pop("_SUCCESS", None)
                rows = 0
                for info in shards.values():
                    with store.open(info.path) as file:
                        rows += pq.read_metadata(file).num_rows
                assert rows == latest["rows"], (latest, rows)
                seen.append(latest["dataset"])
            except Exception as error:
                failed.append(error)
                return

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("where", "nights", "files", "rows", "renamed"),
    [
        pytest.param("s3", 3, 8, 250, (2,), marks=pytest.mark.full),
        *(pytest.param(where, 4, 8, 250, (3,), marks=pytest.mark.slow) for where in ("files", "s3")),
        *(pytest.param(where, 7, 40, 5000, (3, 5), marks=pytest.mark.slow) for where in ("files", "s3")),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_nights(
    nights: int,
    files: int,
    rows: int,
    renamed: tuple[int, ...],
    where: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    root, options = str(tmp_path), {}
    if where == "s3":
        root, options = (
            request.getfixturevalue("bucket"),
            {"endpoint_url": request.getfixturevalue("s3_server")},
        )
    corpus = Corpus(f"{root}/corpus", files, rows, renamed)
    tiny = make_checkpoint(tmp_path / "tiny")

    def job(output: str, base: str | None, night: int) -> sections.Config:
        parsed = parse_config(
            {
                "source": {
                    "docs": {"path": f"{root}/corpus/*.parquet", "id_column": "key", "options": options}
                },
                "model": {"name": str(tiny)},
                "output": {"path": output, "rows_per_shard": 2500, "options": options},
                "reuse": {"base": base, "match": "dataset"},
            }
        )
        dated = _dated(parsed.output, FIRST + datetime.timedelta(night))
        return parsed.model_copy(update={"output": dated})

    before: set[str] = set()
    with reader(f"{root}/series") as seen:
        for night in range(nights):
            if night:
                corpus.change(night)
            corpus.write(night)
            nightly, full = (
                job(f"{root}/series/{{run_date}}", "latest", night),
                job(f"{root}/full{night}", None, night),
            )
            seconds = []
            for each in (nightly, full):
                started = time.monotonic()
                ending = run.run(each, quiet=True)
                seconds.append(time.monotonic() - started)
                assert ending.code == ExitCode.DONE, ending.reason
                if each is nightly:
                    summary = ending.summary
            assert_same(read(nightly.output.path), read(full.output.path))
            changed = len(corpus.texts() - before)
            before = corpus.texts()
            origins = ", ".join(f"{summary[name]} {name}" for name in ("embedded", "reused", "copied"))
            print(f"{where} night {night}: {corpus.rows} rows, {changed} changed, {origins};", end=" ")
            print(f"{seconds[0]:.1f} s, full {seconds[1]:.1f} s")
            assert summary["embedded"] <= 1.05 * changed
            assert summary["copied"] + summary["reused"] + summary["embedded"] == corpus.rows
    assert seen[-1] == (FIRST + datetime.timedelta(nights - 1)).isoformat()
    assert len(set(seen)) > 1
    report = verify.verify(nightly.output.path, 0.0)
    assert not report.findings
