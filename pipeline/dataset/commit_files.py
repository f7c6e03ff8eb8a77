"""Writes the files of a commit beside the shards; what is there and says the same stays as it is."""

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
"""What summaries of one manifest agree on, whoever writes them."""


@dataclass(frozen=True)
class FoundFile:
    """A file as it was found: what its version says was there when its content was read, or before."""

    version: str | None
    data: bytes

    @classmethod
    def at(cls, dataset: Dataset, path: str) -> "FoundFile":
        """What is at a path; None and nothing where there is none."""
        version = dataset.storage.version(path)
        try:
            return cls(version, dataset.storage.read(path) if version else b"")
        except MissingError:
            return cls(None, b"")


def write_summary(dataset: Dataset, summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The summary that holds: the one that is there, where it says the same of the dataset; else ours."""
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
    """The ending, with its report where that could be written; the page of a commit of these shards stays.

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
    except StorageError as error:  # a run is not to fail for want of its report
        telemetry.event("report not written", reason=str(error))
        return ending
    return replace(ending, report=path)


def same_records(data: bytes, records: pa.Table) -> bool:
    """Whether a manifest that is there says the same as these records, but for what no footer knows."""
    unknown = list(UNKNOWN_LATER)
    try:
        found = read_records(data, "manifest").drop_columns(unknown)
    except DamagedError:  # or there is none
        return False
    return bool(found.equals(records.drop_columns(unknown)))


def sweep(dataset: Dataset) -> None:
    """Nothing is written here any more: open uploads never will be a shard, and matches have been used."""
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
