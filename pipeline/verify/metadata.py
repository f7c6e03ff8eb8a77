"""Reads what a dataset says about itself: identity, plan, manifest, summary and file names.

Each file is read once, on first use. A file that is missing or can't be read is a finding; its content is
then None or empty. Failures of storage pass through. Nothing that the dataset names is contacted: no source,
no model, no other dataset.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline import parsing
from pipeline.dataset.claim import Claim
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.expected import Expected
from pipeline.dataset.identity import Identity
from pipeline.dataset.layout import Layout
from pipeline.errors import DamagedError, MissingError, PipelineError
from pipeline.plan.plan import Plan
from pipeline.verify.shard_audit import Finding


@dataclass
class Metadata:
    """A dataset's metadata, and the findings about it."""

    dataset: Dataset
    found: list[Finding] = field(default_factory=list)

    def add(self, check: str, where: str, what: str) -> None:
        """Adds a finding."""
        self.found.append(Finding(check, where, what))

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """Returns the content of dataset.json; empty if it can't be read.

        Raises:
            MissingError: the file does not exist, so this is not a dataset.
            OtherDatasetError: the dataset has another version of the format.
        """
        layout = self.dataset.layout
        try:
            data = self.dataset.storage.read(layout.identity)
        except MissingError:
            hint = "name the folder that holds dataset.json"
            raise MissingError("no dataset here", layout.root, hint=hint) from None
        with self._readable("identity", "dataset.json"):
            claim = Claim.from_bytes(data, layout.identity)
            return claim.content if claim.identity().dataset_digest else {}  # computing the digest may raise
        return {}

    @cached_property
    def identity(self) -> Identity:
        """Returns the identity; needs a dataset.json that can be read."""
        return Identity(self.content["vector_fields"], self.content["dataset_fields"])

    @cached_property
    def plan(self) -> Plan | None:
        """Returns the frozen plan."""
        with self._readable("complete", "plan.parquet"):
            return Plan.from_bytes(self.dataset.storage.read(self.dataset.layout.plan))
        return None

    @cached_property
    def expected(self) -> Expected | None:
        """Returns the form that every shard must have; None if dataset.json and plan do not tell it."""
        if self.content and self.plan:
            with self._readable("identity", "dataset.json"):
                return Expected.of(self.identity, self.plan.columns)
        return None

    @cached_property
    def finished(self) -> bool:
        """Tells whether `_SUCCESS` exists; before that, manifest and summary are not written."""
        return self.dataset.complete()

    @cached_property
    def manifest(self) -> pa.Table | None:
        """Returns the record of each shard."""
        if self.finished:
            with self._readable("complete", "manifest.parquet"):
                return self.dataset.manifest()
        return None

    @cached_property
    def recorded(self) -> Mapping[str, int]:
        """Returns the number of each split's row in the manifest."""
        ids = self.manifest["split_id"].to_pylist() if self.manifest is not None else []
        return {split: row for row, split in enumerate(ids)}

    def record(self, split: str) -> dict[str, Any] | None:
        """Returns a split's row of the manifest."""
        if self.manifest is None or split not in self.recorded:
            return None
        record: dict[str, Any] = self.manifest.slice(self.recorded[split], 1).to_pylist()[0]
        return record

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Returns the content of summary.json; empty if it is missing or can't be read."""
        if self.finished:
            with self._readable("complete", "summary.json"):
                summary = self.dataset.summary()
                return summary | {"failed_files": dict(summary["failed_files"])}
        return {}

    @cached_property
    def planned(self) -> set[str]:
        """Returns the splits of the plan."""
        return set(self.plan.split_ids.to_pylist()) if self.plan else set()

    @cached_property
    def there(self) -> set[str]:
        """Returns the splits that have a shard; other files of data/ are findings."""
        splits = set()
        for name in sorted(self.dataset.storage.list_files(self.dataset.layout.data)):
            split = Layout.split_of_shard(name)
            if split is not None:
                splits.add(split)
            elif name != "_SUCCESS":
                self.add("shards", f"data/{name}", "does not belong here")
        return splits

    @contextmanager
    def _readable(self, check: str, where: str) -> Iterator[None]:
        """Turns what a library raises for a damaged file into a finding; our other errors pass through."""
        try:
            yield
        except MissingError:
            self.add(check, where, "is missing")
        except DamagedError as error:
            self.add(check, where, f"can't be read: {parsing.brief(error)}")
        except PipelineError:
            raise
        except Exception as error:  # the boundary: damaged bytes make Arrow and JSON raise anything
            self.add(check, where, f"can't be read: {parsing.brief(error)}")
