"""Tests that forged files of a dataset, a base or a source run no code while Ray Data is loaded.

Ray Data registers an Arrow type whose values are pickles. A process that takes such a value runs its code.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import parsing
from pipeline.nightly.documents import read_matches
from pipeline.plan.plan import COLUMNS_KEY
from tests.conftest import write_config
from tests.preloaded import python
from tests.reports import ended

Job = Callable[..., dict[str, Any]]
Forge = Callable[[pa.Table, Path], pa.Table]


class Pickled(pa.ExtensionType):
    """A type like Ray's, under Ray's name; it is not registered in this process."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, _storage: pa.DataType, _serialized: bytes) -> "Pickled":
        return cls()


class Bomb:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.marker), 0o777, True)


def pickled(rows: int, marker: Path) -> pa.Array:
    storage = pa.array([pickle.dumps(Bomb(marker))] * rows, pa.large_binary())
    return pa.ExtensionArray.from_storage(Pickled(), storage)


def plain(table: pa.Table, marker: Path) -> pa.Table:
    """Adds a forged column."""
    return table.append_column("more", pickled(table.num_rows, marker))


def in_structs(table: pa.Table, marker: Path) -> pa.Table:
    values = pickled(table.num_rows, marker)
    return table.append_column("more", pa.StructArray.from_arrays([values], ["inner"]))


def in_lists(table: pa.Table, marker: Path) -> pa.Table:
    offsets = pa.array(range(table.num_rows + 1), pa.int32())
    return table.append_column("more", pa.ListArray.from_arrays(offsets, pickled(table.num_rows, marker)))


def instead(*names: str) -> Forge:
    """Returns a function that replaces these columns by forged ones."""

    def forge(table: pa.Table, marker: Path) -> pa.Table:
        for name in names:
            at = table.column_names.index(name)
            table = table.set_column(at, name, pickled(table.num_rows, marker))
        return table

    return forge


def rewrite(path: Path, forge: Forge, marker: Path) -> None:
    table = pq.read_table(path)
    forged = forge(table, marker)
    metadata = table.schema.metadata
    pq.write_table(forged.replace_schema_metadata(metadata), path, write_page_checksum=True)


def all_commands(folder: Path) -> str:
    """Runs the commands that read a dataset in a process with Ray Data loaded; returns what they print."""
    job = str(folder / "job.yaml")
    script = f"""
import sys
import ray.data
from pathlib import Path
from pipeline import cli
from pipeline.config.load import load_config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.errors import PipelineError
from pipeline.model import checkpoint
from pipeline.nightly.choose_base import open_base
from pipeline.plan.plan import Plan
for command in ({["status", job]}, {["status", str(folder / "out")]}, {["verify", str(folder / "out")]},
                {["report", job, "--to", str(folder / "page.html")]}, {["search", job, "memory"]}):
    assert cli.main(command) != 1, command
parsed = load_config({job!r}, [], None)
try:
    list(Plan.from_bytes(Path({str(folder / "out/plan.parquet")!r}).read_bytes()).scans())
except PipelineError as error:
    print(error)
identity = Identity.of(parsed, checkpoint.resolve(parsed.model.name))
base = open_base({str(folder / "out")!r}, identity, parsed.output.options)
for shard in Dataset.of(parsed).shards():
    documents = base and base.documents(shard)
    if documents is not None:
        documents.to_pylist()
"""
    done = python(script)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder(job: Job, tmp_path: Path, corpus: Path) -> Path:
    """Returns the folder of a job that has run and has rejected a row."""
    table = pq.read_table(corpus / "1.parquet")
    texts = [None, *table["text"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "text", pa.array(texts, pa.string())), corpus / "1.parquet")
    ended(job())
    write_config(tmp_path / "job.yaml", job())
    return tmp_path


def test_a_forged_column_runs_code_where_nobody_looks(folder: Path, tmp_path: Path) -> None:
    """This is the danger that the tests below are about: if it no longer exists, they prove nothing."""
    rewrite(folder / "out/plan.parquet", plain, tmp_path / "ran")
    script = "import sys, ray.data, pyarrow.parquet as pq; pq.read_table(sys.argv[1]).to_pylist()"
    path = str(folder / "out/plan.parquet")
    python(script, path).check_returncode()
    assert (tmp_path / "ran").exists()


def test_a_sound_dataset_is_read_by_all_of_them(folder: Path) -> None:
    said = all_commands(folder)
    assert "can't be read" not in said
    assert (folder / "page.html").exists()


FILES = {
    "plan.parquet": ("error", "version"),
    "manifest.parquet": ("attempt", "rejects_file"),
    "data/part-*.parquet": ("topic", "source_file"),
    "rejects/part-*.parquet": ("reason", "text"),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plan.parquet", "plain"), ("plan.parquet", "instead"), ("manifest.parquet", "lists"),
        ("manifest.parquet", "instead"), ("data/part-*.parquet", "plain"), ("data/part-*.parquet", "structs"),
        ("data/part-*.parquet", "instead"), ("rejects/part-*.parquet", "instead"),
    ],
)  # fmt: skip
def test_a_forged_file_of_a_dataset_runs_nothing(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    forges = {"plain": plain, "structs": in_structs, "lists": in_lists, "instead": instead(*FILES[name])}
    paths = sorted((folder / "out").glob(name))
    assert paths
    for path in paths:
        rewrite(path, forges[kind], tmp_path / "ran")
    said = all_commands(folder)
    assert not (tmp_path / "ran").exists()
    assert any(f"column {column!r}" in said for column in ("more", *FILES[name]))


def test_a_forged_ledger_runs_nothing_and_is_passed_over(folder: Path, tmp_path: Path) -> None:
    (folder / "out/data/_SUCCESS").unlink()
    (folder / "out/manifest.parquet").rename(folder / "out/ledger/attempt-00000.parquet")
    rewrite(folder / "out/ledger/attempt-00000.parquet", plain, tmp_path / "ran")
    said = all_commands(folder)
    assert not (tmp_path / "ran").exists()
    assert "59 embedded" in said  # the footers say the same
    assert "a file of the ledger is passed over" in said


def test_the_columns_that_a_plan_tells_of_are_plain(folder: Path, tmp_path: Path) -> None:
    """Shards are checked against these columns."""
    path = folder / "out/plan.parquet"
    table = pq.read_table(path)
    columns = pa.schema([pa.field("key", pa.int64()), pa.field("topic", Pickled())])
    told = {COLUMNS_KEY: columns.serialize().to_pybytes().hex()}
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | told), path)
    for shard in (folder / "out/data").glob("*.parquet"):
        rewrite(shard, instead("topic"), tmp_path / "ran")
    said = all_commands(folder)
    assert not (tmp_path / "ran").exists()
    assert "plan.parquet: can't be read (got column 'topic' has an extension type" in said


def test_forged_matches_run_nothing_and_cost_reuse(tmp_path: Path) -> None:
    from pipeline.dataset.dataset import Dataset

    path = tmp_path / "matches/part-a.parquet"
    path.parent.mkdir()
    rows = pa.StructArray.from_arrays([pickled(1, tmp_path / "ran")], ["embedding"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), rows)
    pq.write_table(pa.table({"text_hash": [b"0" * 16], "rows": lists}), path)
    assert read_matches(Dataset(str(tmp_path)), "a") is None
    assert not (tmp_path / "ran").exists()


def test_a_type_is_refused_whether_it_is_registered_or_not(tmp_path: Path) -> None:
    """An unregistered type is recognized only by the metadata of its field."""
    path = tmp_path / "forged.parquet"
    pq.write_table(plain(pa.table({"x": [1]}), tmp_path / "ran"), path)
    script = (
        "import sys; from pipeline import parsing\n"
        "try: parsing.opened(sys.argv[1], 'here')\n"
        "except parsing.DamagedError as error: print(error)"
    )
    for before in ("", "import ray.data\n"):
        said = subprocess.check_output([sys.executable, "-c", before + script, str(path)], text=True)
        assert said.startswith("here: can't be read (got column 'more' has an extension type"), said


@pytest.mark.parametrize(
    "kind",
    [
        Pickled(),
        pa.dictionary(pa.int32(), Pickled()),
        pa.map_(pa.string(), Pickled()),
        pa.list_(pa.field("x", pa.large_binary(), metadata={parsing.EXTENSION_KEY: b"any"})),
        pa.struct([("x", pa.list_(pa.struct([("y", Pickled())]), 2))]),
        pa.uuid(),
    ],
    ids=str,
)
def test_extension_types_are_found_however_deep(kind: pa.DataType) -> None:
    with pytest.raises(TypeError, match="column 'it' has an extension type"):
        parsing.refuse_extensions(
            pa.schema([("fine", pa.list_(pa.struct([("a", pa.int8())])))]).append(pa.field("it", kind))
        )


@pytest.mark.parametrize("column", ["key", "topic", "text"])
def test_a_forged_source_runs_nothing(job: Job, tmp_path: Path, corpus: Path, column: str) -> None:
    """A carried column keeps the bytes; a column of such a type is not a text column."""
    for path in corpus.glob("*.parquet"):
        rewrite(path, instead(column), tmp_path / "ran")
    write_config(tmp_path / "job.yaml", job())
    script = (
        "import ray.data, json, sys; from tests.reports import ended\n"
        "from pipeline.errors import PipelineError\n"
        "try: print(ended(json.load(open(sys.argv[1]))).summary['rows'])\n"
        "except PipelineError as error: print(error)"
    )
    values = tmp_path / "values.json"
    values.write_text(json.dumps(job()))
    said = python(script, str(values)).stdout
    assert said.startswith("60" if column != "text" else "source.docs"), said
    assert not (tmp_path / "ran").exists()
