"""Writes the files of a commit beside the shards; an existing file that says the same stays as it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline import parsing, telemetry
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult, mark
from pipeline.dataset.record import UNKNOWN_LATER, read_records
from pipeline.dataset.summary import COUNTED
from pipeline.errors import DamagedError, MissingError, ReplacedError, StorageError

SETTLED = (
    "dataset_digest", "claim", "manifest_digest", "splits", "shards", "failed_files", "documents",
    *COUNTED,
)  # fmt: skip
"""The fields on which all summaries of one manifest agree, whichever driver writes them."""


@dataclass(frozen=True)
class FoundFile:
    """A file as it was found: its content, and the version that it had just before that was read."""

    version: str | None
    data: bytes

    @classmethod
    def at(cls, dataset: Dataset, path: str) -> "FoundFile":
        """Reads the file at a path; its version is None and its content empty if there is none."""
        version = dataset.storage.version(path)
        try:
            return cls(version, dataset.storage.read(path) if version else b"")
        except MissingError:
            return cls(None, b"")


def write_summary(dataset: Dataset, summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Writes the summary, unless one that says the same of the dataset exists; returns the one that holds."""
    path = dataset.layout.summary
    there = FoundFile.at(dataset, path)
    try:
        said = parsing.json_value(there.data or b"{}")
    except ValueError:
        said = {}
    if isinstance(said, dict) and all(said.get(name) == summary[name] for name in SETTLED):
        return said
    data = (json.dumps(summary, indent=2) + "\n").encode()
    dataset.storage.replace(path, data, there.version)
    return summary


def write_report(dataset: Dataset, ending: RunResult, made: bytes | None, there: FoundFile) -> RunResult:
    """Writes the report, unless the page of a commit of these shards exists; adds its path to the ending.

    Raises:
        ReplacedError: a rival has written one meanwhile.
    """
    path, digest = dataset.layout.report, ending.summary.get("manifest_digest", "")
    if digest and mark(ending) in there.data:
        return replace(ending, report=path)
    if made is None:
        return ending
    try:
        dataset.storage.replace(path, made, there.version)
    except ReplacedError:
        raise
    except StorageError as error:  # a run must not fail only because its report can't be written
        telemetry.event("report not written", reason=str(error))
        return ending
    return replace(ending, report=path)


def same_records(data: bytes, records: pa.Table) -> bool:
    """Tells whether an existing manifest equals these records, except in fields that no footer has."""
    unknown = list(UNKNOWN_LATER)
    try:
        found = read_records(data, "manifest").drop_columns(unknown)
    except DamagedError:  # damaged or missing
        return False
    return bool(found.equals(records.drop_columns(unknown)))


def sweep(dataset: Dataset) -> None:
    """Cleans up after a commit: aborts unfinished uploads and removes the matches, which have been used."""
    layout, storage = dataset.layout, dataset.storage
    try:
        swept = storage.abort_unfinished_uploads(layout.root, layout.is_ours)
        for info in storage.list_files(layout.all_matches).values():
            storage.remove(info.path)
        storage.remove_empty_folder(layout.all_matches)
    except StorageError as error:  # the dataset is complete all the same
        telemetry.event("leftovers not removed", reason=str(error))
    else:
        telemetry.event("complete", unfinished_uploads_removed=swept)
