"""Parses the records of attempts, which lie beside the ledger and say when each started and how it ended."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline import parsing
from pipeline.dataset.reconcile import failed_pieces
from pipeline.plan.plan import Plan

Attempt = Mapping[str, Any]
FIELDS = {
    "attempt": str,
    "host": str,
    "started": str,
    "ended": str,
    "code": int,
    "reason": str,
    "summary": dict,
    "replicas": dict,
}
"""The type of each field that is present."""
PLACES = ("placed", "wanted")
"""The numbers of replicas for which the cluster has a place, and which the attempt wanted, at some time."""


def parse_attempt(data: bytes, where: str) -> dict[str, Any]:
    """Parses the record of an attempt.

    Raises:
        DamagedError: it is not such a record.
    """
    told = parsing.json_object(data, where)
    with parsing.damage(where):
        for name, kind in FIELDS.items():
            if not isinstance(told.get(name, kind()), kind):
                raise TypeError(f"{name} is {told[name]!r}")
        for name in ("started", "ended"):
            if name == "started" or name in told:
                datetime.datetime.fromisoformat(told[name])
        if "replicas" in told and not all(isinstance(told["replicas"][each], int) for each in PLACES):
            raise TypeError(f"replicas is {told['replicas']!r}")
        return told | {"attempt": told["attempt"]}


def failed_files(plan: Plan, records: pa.Table, attempts: Sequence[Attempt]) -> dict[str, str]:
    """Returns the failed files of an incomplete dataset, with the reason of each.

    They come from the plan, from the existing shards, and from the last of these attempts that has a summary.
    """
    told = [attempt["summary"] for attempt in attempts if attempt.get("summary")]
    ended: Mapping[str, str] = told[-1].get("failed_files", {}) if told else {}
    return {**plan.failed_files, **failed_pieces(records.column("pieces")), **ended}
