"""Checks the changes that lie in a dataset: their counts, their columns, and the bytes of each file.

The other dataset is not read: it may be gone, and nothing that a dataset names is contacted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pyarrow as pa

from pipeline import parsing, schema
from pipeline.config.location import Options
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.layout import ChangesLayout
from pipeline.errors import DamagedError, MissingError, OtherDatasetError
from pipeline.nightly.changes import part
from pipeline.nightly.changes.pair import CHANGE
from pipeline.nightly.changes.record import Changes, PartRecord, made_before
from pipeline.verify.shard_audit import Finding

CHECK = "changes"


@dataclass(frozen=True)
class PartToAudit:
    """A file of changes, and what it should be.

    path: where it lies; name: the same, as findings show it.  columns: those of the dataset's shards.
    """

    root: str
    options: Options
    path: str
    name: str
    recorded: PartRecord
    columns: pa.Schema


@dataclass
class Folders:
    """The content of all folders of changes: findings, notes, files to read, and how many are complete."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: list[PartToAudit] = field(default_factory=list)
    complete: int = 0

    def add(self, where: str, what: str) -> None:
        self.findings.append(Finding(CHECK, where, what))


def folders(dataset: Dataset, manifest: pa.Table, options: Options) -> Folders:
    """Reads the records of all changes in a complete dataset."""
    found = Folders()
    for name in dataset.storage.list_folders(dataset.layout.all_changes):
        where = f"changes/{name}"
        try:
            layout = dataset.layout.changes(name)
            changes = made_before(dataset.storage, layout)
            if changes is None:
                found.notes.append(f"changes: those since {name} are not complete: run `changes` again")
                continue
            _add(found, dataset, manifest, layout, changes, options)
        except (DamagedError, MissingError, OtherDatasetError) as error:
            found.add(where, error.what if not error.got else f"{error.what}: {error.got}")
    return found


def _add(
    found: Folders,
    dataset: Dataset,
    manifest: pa.Table,
    layout: ChangesLayout,
    changes: Changes,
    options: Options,
) -> None:
    found.complete += 1
    where = dataset.layout.name(layout.root)
    for what in (*_records(dataset, layout), *_sums(changes, schema.total(manifest, "rows"))):
        found.add(where, what)
    there = {name for name in dataset.storage.list_files(layout.root) if not name.startswith("_")}
    named = {each.name: each for each in changes.parts}
    for name in sorted(there - named.keys()):
        found.add(f"{where}/{name}", "does not belong here")
    for name in sorted(named.keys() - there):
        found.add(f"{where}/{name}", "is missing")
    columns = dataset.claim_file().identity().shard_schema(dataset.required_plan().columns)
    found.parts += [
        PartToAudit(dataset.layout.root, options, layout.part(name), f"{where}/{name}", named[name], columns)
        for name in sorted(there & named.keys())
    ]


def _records(dataset: Dataset, layout: ChangesLayout) -> Iterator[str]:
    """Checks that the changes are of this dataset, not of one that stood here before."""
    told = parsing.json_object(dataset.storage.read(layout.since), layout.since)
    ours: Mapping[str, Any] = told.get("dataset") or {}
    claim = dataset.claim_file()
    digest = sha256(dataset.storage.read(dataset.layout.manifest)).hexdigest()
    if (ours.get("claim"), ours.get("manifest_digest")) != (claim.token, digest):
        yield "are changes of another dataset than this"


def _sums(changes: Changes, rows: int) -> Iterator[str]:
    sums = {name: sum(each.counts[name] for each in changes.parts) for name in changes.counts}
    if sums != changes.counts:
        yield f"_counts.json says {_told(changes.counts)}, and its files are said to hold {_told(sums)}"
    if changes.rows != rows:
        yield f"_counts.json says {changes.rows} rows, the dataset has {rows}"
    if changes.rows_before + changes.added - changes.deleted != changes.rows:
        yield f"{changes.rows_before} rows, {_told(changes.counts)} do not make {changes.rows}"


def audit_part(given: PartToAudit) -> list[Finding]:
    """Reads a file of changes and returns what is wrong with it.

    Raises:
        StorageError: storage failed.
    """
    return [Finding(CHECK, given.name, what) for what in _wrong(given)]


def _wrong(given: PartToAudit) -> Iterator[str]:
    try:
        data = Dataset(given.root, given.options).storage.read(given.path)
        found = part.record(given.recorded.name, data, given.path)
        columns = parsing.opened(data, given.path).schema_arrow
    except MissingError:
        yield "is gone since it was listed"
        return
    except DamagedError as error:
        yield f"can't be read: {parsing.brief(error)}"
        return
    if found.digest != given.recorded.digest:
        yield "has other bytes than were written: its digest differs"
    if found.counts != given.recorded.counts:
        yield f"holds {_told(found.counts)} rows, _counts.json says {_told(given.recorded.counts)}"
    lacking = [each.name for each in given.columns if each.name not in columns.names]
    if columns.names[:1] != [CHANGE] or lacking:
        yield f"lacks columns of the dataset: {', '.join(lacking) or CHANGE}"


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rows} {name}" for name, rows in counts.items())
