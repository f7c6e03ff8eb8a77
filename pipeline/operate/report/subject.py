"""What a report is about: a dataset as a run left it."""

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
    """A dataset, and how it stands: exit code, reason and summary of its last run, the record of each shard.

    Whatever else is asked for is read on first use.
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
        """All attempts, oldest first; the one that is just ending has ended as we were told."""
        run = self.summary["run"].get("attempt")
        now = {"code": int(self.code), "reason": self.reason}
        return [now | each if each["attempt"] == run else each for each in self.dataset.attempts()]

    @cached_property
    def made(self) -> pa.Table:
        """Records of the shards that attempts at this dataset made, and did not copy."""
        return schema.made_by(self.records, [each["attempt"] for each in self.attempts])

    @cached_property
    def throughput(self) -> Throughput | None:
        """Rows over time; None where no shard was made here."""
        return figures.throughput(self.made, self.attempts)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Digests of the dataset, and the fields of its vectors."""
        found = self.dataset.identity()
        if found is None:
            return {}
        digests = {"dataset_digest": found.dataset_digest, "vector_digest": found.vector_digest}
        return digests | dict(found.vector_fields)

    @property
    def failed_files(self) -> Mapping[str, str]:
        """With the reason of each."""
        failed: Mapping[str, str] = self.summary["failed_files"]
        return failed
