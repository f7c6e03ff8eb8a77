"""Tests that a check of changes finds what is wrong with them, and needs no other dataset for that."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config.location import Options
from pipeline.dataset.dataset import Dataset
from pipeline.driver.changes import make_changes
from pipeline.nightly.changes.pair import Side
from pipeline.verify import changes_audit
from tests.written_datasets import made

BEFORE = {f"{file}.parquet": [{"key": file, "text": f"text {file}", "topic": "t"}] for file in range(4)}
AFTER = {
    name: [{**row, "text": row["text"] + "!"} for row in rows] for name, rows in list(BEFORE.items())[1:]
}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Returns a dataset with changes, whose base is gone."""
    old, new = made(str(tmp_path / "old"), BEFORE), made(str(tmp_path / "new"), AFTER)
    make_changes(*(Side.at(each.layout.root, Options()) for each in (new, old)))
    shutil.rmtree(tmp_path / "old")
    return new


def found(dataset: Dataset) -> list[str]:
    folders = changes_audit.folders(dataset, dataset.manifest(), Options())
    findings = [
        *folders.findings,
        *(each for part in folders.parts for each in changes_audit.audit_part(part)),
    ]
    return [f"{each.where}: {each.what}" for each in findings]


def folder(dataset: Dataset) -> Path:
    return Path(dataset.layout.changes("old").root)


def part(dataset: Dataset) -> Path:
    return next(path for path in sorted(folder(dataset).glob("*.parquet")) if "deleted" not in path.name)


def say(path: Path, **told: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | told))


def rewritten(dataset: Dataset) -> None:
    table = pq.read_table(part(dataset))
    pq.write_table(table.slice(0, 0).drop_columns(["embedding"]), part(dataset))


DAMAGE: dict[str, tuple[Callable[[Dataset], object], list[str]]] = {
    "lost": (lambda dataset: part(dataset).unlink(), ["is missing"]),
    "foreign": (lambda dataset: (folder(dataset) / "part-a.parquet").touch(), ["does not belong here"]),
    "damaged": (lambda dataset: part(dataset).write_bytes(b"PAR1"), ["can't be read"]),
    "other content": (
        rewritten,
        ["its digest differs", "holds 0 added", "lacks columns of the dataset: emb"],
    ),
    "other sums": (
        lambda dataset: say(folder(dataset) / "_counts.json", added=7),
        ["says 7 added", "do not make"],
    ),
    "other rows": (
        lambda dataset: say(folder(dataset) / "_counts.json", rows=9),
        ["says 9 rows", "do not make"],
    ),
    "no counts": (lambda dataset: (folder(dataset) / "_counts.json").unlink(), ["lacks its counts"]),
    "no JSON": (lambda dataset: (folder(dataset) / "_counts.json").write_text("{"), ["can't be read"]),
    "another dataset's": (
        lambda dataset: say(folder(dataset) / "_since.json", dataset={}),
        ["of another dataset"],
    ),
}


def test_sound_changes_have_no_finding(dataset: Dataset) -> None:
    assert found(dataset) == []
    folders = changes_audit.folders(dataset, dataset.manifest(), Options())
    assert (folders.complete, len(folders.parts), folders.notes) == (1, 4, [])


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(dataset: Dataset, name: str) -> None:
    damage, wanted = DAMAGE[name]
    damage(dataset)
    told = found(dataset)
    assert len(told) == len(wanted), told
    for what, line in zip(wanted, told, strict=True):
        assert what in line
        assert line.startswith("changes/old")


def test_unfinished_changes_are_a_note(dataset: Dataset) -> None:
    (folder(dataset) / "_SUCCESS").unlink()
    folders = changes_audit.folders(dataset, dataset.manifest(), Options())
    assert folders.findings == []
    assert folders.notes == ["changes: those since old are not complete: run `changes` again"]


def test_a_dataset_without_changes(tmp_path: Path) -> None:
    assert found(made(str(tmp_path / "new"), AFTER)) == []
