"""An audit of a dataset, from its folder or URL alone: does it hold what it says, and all that was planned?

Believes no record. Each shard is read whole, by `audit`; what it holds is compared with footer, manifest,
summary and plan. Starts without torch (but for `--deep`), and without Ray where shards are few. Reads only.

Cost: the dataset is read once; O(shards) memory here, one shard in each thread or task.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import commit, config, reembed, schema, sources, telemetry
from pipeline.audit import Expected, Finding, Shard, audit_shard, brief
from pipeline.config import Config
from pipeline.dataset import Dataset, Identity
from pipeline.errors import ConfigError, MissingError, PipelineError
from pipeline.layout import Layout
from pipeline.places import check_url, redact
from pipeline.plan import Plan, source_files, split_id
from pipeline.reembed import MEASURES, Sample, reembed_shard

CHECKS = (
    "identity", "complete", "shards", "manifest", "reconciliation", "schema", "checksums", "duplicates",
    "vectors", "rejects", "source", "deep",
)  # fmt: skip
MANY_SHARDS = 200
"""Above, shards are spread over Ray, which takes seconds to start."""
THREADS = min(4, os.cpu_count() or 1)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Check:
    """What one check found, with figures; `skipped` says why where it could not be done."""

    name: str
    findings: tuple[Finding, ...]
    figures: Mapping[str, int | float | str]
    skipped: str = ""

    @property
    def result(self) -> str:
        if self.findings:
            return f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        return "not checked" if self.skipped else "ok"


@dataclass(frozen=True)
class Report:
    """All checks of a dataset; and notes: what is no fault of it, and worth knowing."""

    dataset: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def findings(self) -> list[Finding]:
        return [finding for check in self.checks for finding in check.findings]


def verify(path: str, deep: float = 0.0) -> Report:
    """Audit a dataset.

    Args:
        deep: the fraction of rows to embed once more.

    Raises:
        MissingError: there is no dataset.
        OtherDatasetError: it is of another version of the format.
        ModelError: rows are to be embedded, and the model is no longer there.
        StorageError: storage failed.
    """
    return _Audit(Dataset(_root(path)), deep).report()


def _root(path: str) -> str:
    try:
        check_url(path)
    except ValueError as error:
        raise ConfigError(str(error), "dataset", redact(path)) from None
    if "://" in path:
        return path.rstrip("/")
    if os.environ.get("RAY_ADDRESS") and not Path(path).is_absolute():
        raise ConfigError(
            "a relative path is another place on each node", "dataset", path, "make it absolute, or a URL"
        )
    return os.path.abspath(path)  # noqa: PTH100  (no links followed)


@dataclass
class _Audit:
    """One audit under way: what it reads, and what it has found so far.

    Each `_check` method does one check or two; what they share is read on first use, and a file that can't
    be read is a finding then.
    """

    dataset: Dataset
    deep: float
    found: list[Finding] = field(default_factory=list)
    figures: dict[str, dict[str, int | float | str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def report(self) -> Report:
        if not self.deep:
            self.skipped["deep"] = "only with --deep"
        if self._expected and self._plan:
            if self.deep:  # before hours of reading, not after
                reembed.resolve(self._config, self._identity.vector_digest)
            self._check_identity(self._plan)
            self._check_complete()
            self._check_shards(self._plan)
            self._check_manifest()
            self._check_contents(self._plan, self._expected)
            self._check_source(self._plan)
        else:
            reason = "dataset.json and plan.parquet say what should be here"
            self.skipped |= {name: reason for name in CHECKS if name not in ("identity", "complete")}
        return Report(self.dataset.layout.root, tuple(map(self._check, CHECKS)), tuple(self.notes))

    def _check(self, name: str) -> Check:
        findings = tuple(finding for finding in self.found if finding.check == name)
        return Check(name, findings, self.figures.get(name, {}), self.skipped.get(name, ""))

    def _add(self, check: str, where: str, what: str) -> None:
        self.found.append(Finding(check, where, what))

    @contextmanager
    def _readable(self, check: str, where: str) -> Iterator[None]:
        """What a damaged file makes a library raise is a finding; our own errors are storage's, or final."""
        try:
            yield
        except MissingError:
            self._add(check, where, "is missing")
        except PipelineError:
            raise
        except Exception as error:  # the boundary: damaged bytes make Arrow and JSON raise what they like
            self._add(check, where, f"can't be read: {brief(error)}")

    # What is read once.

    @cached_property
    def _content(self) -> dict[str, Any]:
        """dataset.json; empty where it can't be read."""
        try:
            data = self.dataset.storage.read(self.dataset.layout.identity)
        except MissingError:
            where, hint = self.dataset.layout.root, "name the folder that holds dataset.json"
            raise MissingError("there is no dataset here", where, hint=hint) from None
        with self._readable("identity", "dataset.json"):
            Identity.from_bytes(data, self.dataset.layout.identity)
            return dict(json.loads(data))
        return {}

    @cached_property
    def _identity(self) -> Identity:
        return Identity(self._content["vector_fields"], self._content["dataset_fields"])

    @cached_property
    def _config(self) -> Config:
        return config.parse(self._content.get("config") or {}, "dataset.json")

    @cached_property
    def _plan(self) -> Plan | None:
        with self._readable("complete", "plan.parquet"):
            return Plan.from_bytes(self.dataset.storage.read(self.dataset.layout.plan))
        return None

    @cached_property
    def _expected(self) -> Expected | None:
        """What every shard must be; None where dataset.json and plan do not say it."""
        if self._content and self._plan:
            with self._readable("identity", "dataset.json"):
                return Expected.of(self._identity, self._plan.columns)
        return None

    @cached_property
    def _finished(self) -> bool:
        return self.dataset.complete()

    @cached_property
    def _manifest(self) -> pa.Table | None:
        if self._finished:
            with self._readable("complete", "manifest.parquet"):
                data = self.dataset.storage.read(self.dataset.layout.manifest)
                return pq.read_table(pa.BufferReader(data)).select(schema.RECORD.names).cast(schema.RECORD)
        return None

    @cached_property
    def _summary(self) -> dict[str, Any]:
        if self._finished:
            with self._readable("complete", "summary.json"):
                return dict(json.loads(self.dataset.storage.read(self.dataset.layout.summary)))
        return {}

    @cached_property
    def _there(self) -> set[str]:
        """Splits that have a shard; other files of data/ are findings."""
        splits = set()
        for name in sorted(self.dataset.storage.folder(self.dataset.layout.data)):
            found = Layout.split_of_shard(name)
            if found is not None:
                splits.add(found)
            elif name != "_SUCCESS":
                self._add("shards", f"data/{name}", "does not belong here")
        return splits

    @cached_property
    def _recorded(self) -> Mapping[str, int]:
        """The row of each split in the manifest."""
        ids = self._manifest["split_id"].to_pylist() if self._manifest is not None else []
        return {split: row for row, split in enumerate(ids)}

    # The checks.

    def _check_identity(self, plan: Plan) -> None:
        """dataset.json, plan and summary are of one dataset, and are what their digests say."""
        for name in ("vector_digest", "dataset_digest"):
            if self._content.get(name) != getattr(self._identity, name):
                self._add("identity", "dataset.json", f"its {name} is not that of its fields")
        if self._identity.dataset_digest != plan.dataset_digest:
            what = f"is stale: its dataset_digest is {self._identity.dataset_digest[:12]}…"
            self._add("identity", "dataset.json", f"{what}, that of plan.parquet {plan.dataset_digest[:12]}…")
        if self._summary and self._summary.get("dataset_digest") != plan.dataset_digest:
            self._add("identity", "summary.json", "is of another dataset than plan.parquet")
        forged = [split for split, pieces in plan.splits() if split_id(plan.dataset_digest, pieces) != split]
        if forged:
            what = f"{len(forged)} splits are not what their ids digest, {forged[0]} the first"
            self._add("identity", "plan.parquet", what)

    def _check_complete(self) -> None:
        self.figures["complete"] = {"shards": len(self._there), "planned": len(self._plan_ids)}
        if not self._finished:
            what = f"is missing: the run is unfinished, with {len(self._there & self._plan_ids)}"
            self._add("complete", "data/_SUCCESS", f"{what} of {len(self._plan_ids)} shards")
            self.skipped["manifest"] = "a run writes it when it is done"
        elif self._manifest is None:
            self.skipped["manifest"] = "there is none to be read"

    @cached_property
    def _plan_ids(self) -> set[str]:
        return set(self._plan.split_ids.to_pylist()) if self._plan else set()

    def _check_shards(self, plan: Plan) -> None:
        """Shards, plan and manifest know the same splits."""
        layout, recorded = self.dataset.layout, self._recorded
        for split in sorted(self._there - self._plan_ids):
            self._add("shards", layout.name(layout.shard(split)), "is foreign: the plan does not know it")
        for split in sorted(recorded.keys() - self._plan_ids):
            self._add("shards", "manifest.parquet", f"has split {split}, which the plan does not know")
        # Of an unfinished run shards are missing by nature; of failed files, where the config allows them.
        missing = self._plan_ids - self._there if self._finished else set()
        failed = set(self._summary.get("failed_files") or ())
        for split, pieces in plan.splits() if missing else ():
            if split not in missing or (
                split not in recorded and all(piece.source_file in failed for piece in pieces)
            ):
                continue
            has = "the plan and the manifest have it" if split in recorded else "the plan has it"
            self._add("shards", layout.name(layout.shard(split)), f"is missing: {has}")
        self.figures["shards"] = {"planned": len(self._plan_ids), "there": len(self._there)}

    def _check_manifest(self) -> None:
        """The manifest has each shard once, and the summary is its sum."""
        if self._manifest is None:
            return
        layout = self.dataset.layout
        for split in sorted((self._there & self._plan_ids) - self._recorded.keys()):
            self._add("manifest", layout.name(layout.shard(split)), "has no row in manifest.parquet")
        for split, rows in Counter(self._manifest["split_id"].to_pylist()).items():
            if rows > 1:
                self._add("manifest", "manifest.parquet", f"has split {split} {rows} times")
        sums = commit.counts(self._manifest) | {"shards": self._manifest.num_rows}
        for name, value in sums.items() if self._summary else ():
            if self._summary.get(name) != value:
                what = f"{name} is {self._summary.get(name)}, the sum of manifest.parquet {value}"
                self._add("manifest", "summary.json", what)
        self.figures["manifest"] = {name: sums[name] for name in ("rows", "rejects", "tokens", "truncated")}

    def _check_contents(self, plan: Plan, expected: Expected) -> None:
        """Each shard by itself, and what all of them add up to."""
        telemetry.event("reading", shards=len(self._there & self._plan_ids))
        pieces, totals, unsound = {}, Counter[str](), set()
        for audited in _each(audit_shard, self._shards(plan, expected), len(self._there), THREADS):
            self.found.extend(audited.findings)
            if audited.findings:
                unsound.add(audited.split_id)
            if audited.contents:
                pieces[audited.split_id] = audited.contents["pieces"]
                totals.update({name: audited.contents[name] for name in ("rows", "rejects", "file_bytes")})
        self._check_reconciliation(plan, pieces)
        self._check_ranges(plan)
        self.figures |= {
            "schema": {"columns": len(expected.columns)},
            "checksums": {"bytes": totals["file_bytes"]},
            "duplicates": {"rows": totals["rows"], "rejects": totals["rejects"]},
            "vectors": {"rows": totals["rows"], "kind": expected.vector, "dimensions": expected.dimension},
            "rejects": {"rejects": totals["rejects"]},
        }
        if self.deep:
            self._check_deep(plan, expected, unsound)

    def _shards(self, plan: Plan, expected: Expected) -> Iterator[Shard]:
        for split, pieces in plan.splits():
            if split in self._there:
                row = self._recorded.get(split)
                record = None
                if self._manifest is not None and row is not None:
                    [record] = self._manifest.slice(row, 1).to_pylist()
                yield Shard(self.dataset.layout.root, split, pieces, record, expected)

    def _check_reconciliation(self, plan: Plan, pieces: Mapping[str, list[dict[str, Any]]]) -> None:
        """Each planned row of the shards that could be read is embedded or rejected, by what is in them."""
        held = pa.chunked_array([pa.array(pieces.values(), pa.list_(schema.PIECE))])
        for file, what in commit.unaccounted(plan.pieces, held, set(pieces)):
            self._add("reconciliation", file, what)
        documents = sum(piece["rows"] + piece["rejects"] for each in pieces.values() for piece in each)
        self.figures["reconciliation"] = {"files": len(plan.versions()), "documents": documents}

    def _check_ranges(self, plan: Plan) -> None:
        """No two splits own the same rows: then rows that are in their own split's ranges meet no others."""
        cut = plan.pieces.filter(pc.is_valid(plan.pieces["split_id"]))
        ranges = pa.table({"file": source_files(cut), "start": cut["start"], "stop": cut["stop"]})
        ranges = ranges.sort_by([(name, "ascending") for name in ranges.column_names])
        same = pc.equal(ranges["file"][1:], ranges["file"][:-1]).to_numpy()
        overlap = same & (ranges["start"].to_numpy()[1:] < ranges["stop"].to_numpy()[:-1])
        for row in np.flatnonzero(overlap).tolist():
            what = f"two splits own rows of {ranges['file'][row]} from {ranges['start'][row + 1]}"
            self._add("duplicates", "plan.parquet", what)

    def _check_deep(self, plan: Plan, expected: Expected, unsound: set[str]) -> None:
        """Drawn rows of the shards that nothing speaks against, embedded once more."""
        telemetry.event("embedding again", fraction=self.deep)
        samples = (
            Sample(
                root=self.dataset.layout.root,
                split_id=split,
                pieces=pieces,
                fraction=self.deep,
                dataset_digest=plan.dataset_digest,
                vector_digest=self._identity.vector_digest,
                config=self._config.model_dump_json(),
            )
            for split, pieces in plan.splits()
            if split in self._there and split not in unsound
        )
        rows, unchecked, nearness = 0, 0, math.inf
        for compared in _each(reembed_shard, samples, len(self._there), threads=1):
            self.found.extend(compared.findings)
            rows, unchecked = rows + compared.rows, unchecked + compared.unchecked
            nearness = min(nearness, compared.nearness)
        self.figures["deep"] = {"rows compared": rows, "rows not checked": unchecked}
        if rows:
            self.figures["deep"][f"least {MEASURES[expected.vector]}"] = nearness
        if unchecked:
            self.notes.append(
                f"deep: {unchecked} drawn rows were not checked: their source is gone or changed"
            )
        if unsound:
            self.notes.append(f"deep: {len(unsound)} shards with findings were left out")

    def _check_source(self, plan: Plan) -> None:
        """Whether the sources are still as planned; no fault of the dataset if not."""
        try:
            moved = sources.no_longer_as_planned(self._config, plan)
        except PipelineError as error:
            self.skipped["source"] = str(error).splitlines()[0]
            return
        self.notes += [f"source: {file} {what}" for file, what in sorted(moved.items())]
        self.figures["source"] = {"files": len(plan.versions()), "no longer as planned": len(moved)}


def _each(
    function: Callable[[Item], Result], items: Iterable[Item], count: int, threads: int
) -> Iterator[Result]:
    """What a function makes of each item: on Ray where there is a cluster or much to do, else in threads."""
    if os.environ.get("RAY_ADDRESS") or count > MANY_SHARDS:
        # Ray takes a second to import and six to start.
        from pipeline.flow import spread  # noqa: PLC0415

        yield from spread(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)
