"""Defines the subject of a report: a dataset as a run left it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline import schema
from pipeline.config.sections import Config
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ExitCode
from pipeline.operate.report import figures
from pipeline.operate.report.figures import Throughput
from pipeline.plan.plan import Plan


@dataclass(frozen=True)
class Subject:
    """A dataset and its state: exit code, reason and summary of its last run, and the record of each shard.

    Everything else is read on first use.
    """

    config: Config
    dataset: Dataset
    plan: Plan
    code: ExitCode
    reason: str
    summary: Mapping[str, Any]
    records: pa.Table

    @cached_property
    def attempts(self) -> Sequence[Mapping[str, Any]]:
        """Returns all attempts, oldest first; the one that is just ending has the given code and reason."""
        run = self.summary["run"].get("attempt")
        now = {"code": int(self.code), "reason": self.reason}
        return [now | each if each["attempt"] == run else each for each in self.dataset.attempts()]

    @cached_property
    def made(self) -> pa.Table:
        """Returns the records of the shards that attempts at this dataset made, and did not copy."""
        return schema.made_by(self.records, [each["attempt"] for each in self.attempts])

    @cached_property
    def throughput(self) -> Throughput | None:
        """Returns rows over time; None if no shard was made here."""
        return figures.throughput(self.made, self.attempts)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Returns the dataset's digests and the fields of its vectors."""
        found = self.dataset.identity()
        if found is None:
            return {}
        digests = {"dataset_digest": found.dataset_digest, "vector_digest": found.vector_digest}
        return digests | dict(found.vector_fields)

    @property
    def failed_files(self) -> Mapping[str, str]:
        """Returns the failed files with their reasons."""
        failed: Mapping[str, str] = self.summary["failed_files"]
        return failed
