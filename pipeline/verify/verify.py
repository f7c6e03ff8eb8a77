"""Audits a dataset from its folder or URL: does it hold what it says, and all that was planned?

Trusts no record. Sources and model are read from where the caller's own config says, never from where the
dataset says: its author could make us contact any server with the caller's credentials. `shard_audit` reads
each shard completely; its contents are compared with footer, manifest, summary and plan. Starts without
torch (except for `deep`), and without Ray if there are few shards. Writes nothing.

Cost: the dataset is read once; O(shards) memory here, one shard in each thread or task.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, telemetry
from pipeline.config.location import Options, absolute, check_url, is_url, protocol_of, refuse_relative
from pipeline.config.sections import Config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.expected import Expected
from pipeline.dataset.identifiers import id_columns, repeats
from pipeline.dataset.identity import Identity, fields_of
from pipeline.dataset.reconcile import unaccounted
from pipeline.dataset.summary import counts
from pipeline.embed.spread_out import spread_out
from pipeline.errors import ConfigError, PipelineError
from pipeline.model import outputs
from pipeline.model.output_spec import OutputSpec
from pipeline.plan.changes import no_longer_as_planned
from pipeline.plan.plan import Plan, source_files, split_id
from pipeline.verify import changes_audit, reembed
from pipeline.verify.metadata import Metadata
from pipeline.verify.reembed import MEASURES, Sample, reembed_shard
from pipeline.verify.shard_audit import Finding, Shard, audit_shard

CHECKS = (
    "identity", "complete", "shards", "manifest", "reconciliation", "schema", "checksums", "duplicates",
    "vectors", "outputs", "rejects", "changes", "source", "deep",
)  # fmt: skip
SUMMED = ("rows", "rejects", "file_bytes")
SOURCE_PATH = re.compile(r"source\.[^.]+\.path:")
THREADS = 2
"""Threads without Ray. Each takes about six times a shard's bytes (1.2 GB for 65,536 rows of 768 floats)."""


@dataclass(frozen=True)
class Check:
    """The findings and figures of one check; `skipped` says why it could not be done, if so."""

    name: str
    findings: tuple[Finding, ...]
    figures: Mapping[str, int | float | str]
    skipped: str = ""

    @property
    def result(self) -> str:
        """Returns the result in a word or two."""
        if self.findings:
            return f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        return "not checked" if self.skipped else "ok"


@dataclass(frozen=True)
class Report:
    """All checks of a dataset, and notes: facts worth knowing that are not faults of the dataset."""

    dataset: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def findings(self) -> list[Finding]:
        """Returns the findings of all checks."""
        return [finding for check in self.checks for finding in check.findings]


def verify(path: str, deep: float = 0.0, config: Config | None = None) -> Report:
    """Audits a dataset.

    Args:
        deep: the fraction of rows to embed again.
        config: the caller's, which made the dataset; without it neither sources nor model are read.

    Raises:
        ConfigError: rows are to be embedded without a config; or another config made the dataset.
        MissingError: the dataset does not exist.
        OtherDatasetError: the dataset has another version of the format.
        ModelError: rows are to be embedded, and the model is no longer there.
        StorageError: storage failed.
    """
    if deep and config is None:
        hint = "name the config of the job, which says where they are: --config FILE"
        raise ConfigError("needs the sources and the model", "--deep", hint=hint)
    where, config = root(path), config and config.absolute()
    options = _options(where, config) if config else Options()
    return _Audit(Metadata(Dataset(where, options)), deep, config, options).report()


def _options(path: str, config: Config) -> Options:
    """Returns the caller's options of the output, if the dataset lies in the same kind of storage."""
    alike = protocol_of(path) == protocol_of(config.output.path)
    return config.output.options if alike else Options()


def root(path: str) -> str:
    """Returns the folder or URL of a dataset that the command line names, as any node can find it.

    Raises:
        ConfigError: the path can't be a dataset's.
    """
    try:
        check_url(path)
    except ValueError as error:
        raise ConfigError(str(error), "dataset", path) from None
    if is_url(path):
        return path.rstrip("/")
    refuse_relative(path, "dataset")
    return absolute(path)


@dataclass
class _Audit:
    """One audit in progress. Each `_check` method does one check, or one part of several checks."""

    evidence: Metadata
    deep: float
    config: Config | None
    options: Options
    figures: dict[str, dict[str, int | float | str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def report(self) -> Report:
        """Runs all checks that are possible, and returns the report."""
        plan, expected = self.evidence.plan if self.evidence.content else None, self.evidence.expected
        if not self.deep:
            self.skipped["deep"] = "only with --deep"
        if plan and expected:
            self._check_all(plan, expected)
        else:
            reason = "dataset.json and plan.parquet say what should be here"
            self.skipped |= {name: reason for name in CHECKS if name not in ("identity", "complete")}
        return Report(self._root, tuple(map(self._check, CHECKS)), tuple(self.notes))

    def _check_all(self, plan: Plan, expected: Expected) -> None:
        if self.config:
            self._refuse_other(self.config)
        if self.config and self.deep:  # fails now, not after hours of reading
            reembed.resolve(self.config, self.evidence.identity.vector_digest)
        self._check_identity(plan)
        self._check_complete()
        self._check_shards(plan)
        self._check_manifest()
        self._check_ranges(plan)
        unsound = self._check_contents(plan, expected)
        self._check_changes()
        self._check_source(plan)
        if self.config and self.deep:
            self._check_deep(plan, expected, unsound, self.config)

    def _refuse_other(self, config: Config) -> None:
        """Refuses a config of another dataset; only the paths of the sources may differ."""
        theirs = Identity({}, self.evidence.identity.dataset_fields)
        found = Identity({}, fields_of(config)).differences(theirs)
        differing = [each for each in found if not SOURCE_PATH.match(each)]
        if differing:
            hint = "name the config that did; only where its sources lie may differ"
            raise ConfigError("did not make this dataset", "--config", "; ".join(differing[:3]), hint)

    def _check(self, name: str) -> Check:
        findings = tuple(finding for finding in self.evidence.found if finding.check == name)
        return Check(name, findings, self.figures.get(name, {}), self.skipped.get(name, ""))

    @property
    def _root(self) -> str:
        return self.evidence.dataset.layout.root

    def _shard_name(self, split: str) -> str:
        return f"data/part-{split}.parquet"  # shown, not opened: it may be a foreign name

    def _check_identity(self, plan: Plan) -> None:
        """Checks that dataset.json, plan and summary belong to one dataset and match their digests."""
        evidence, identity = self.evidence, self.evidence.identity
        for name in ("vector_digest", "dataset_digest"):
            if evidence.content.get(name) != getattr(identity, name):
                evidence.add("identity", "dataset.json", f"its {name} does not match its fields")
        if identity.dataset_digest != plan.dataset_digest:
            ours, theirs = identity.dataset_digest[:12], plan.dataset_digest[:12]
            what = f"is stale: its dataset_digest is {ours}…, that of plan.parquet {theirs}…"
            evidence.add("identity", "dataset.json", what)
        if evidence.summary and evidence.summary.get("dataset_digest") != plan.dataset_digest:
            evidence.add("identity", "summary.json", "is of another dataset than plan.parquet")
        forged = [split for split, pieces in plan.splits() if split_id(plan.dataset_digest, pieces) != split]
        if forged:
            what = f"{len(forged)} splits do not match their ids, {forged[0]} the first"
            evidence.add("identity", "plan.parquet", what)

    def _check_complete(self) -> None:
        evidence = self.evidence
        done, planned = len(evidence.there & evidence.planned), len(evidence.planned)
        self.figures["complete"] = {"finished": "finished" if evidence.finished else "unfinished"}
        if not evidence.finished:
            what = f"is missing: the run is unfinished, {done} of {planned} shards are there"
            evidence.add("complete", "data/_SUCCESS", what)
            self.skipped["manifest"] = "a run writes it when it is done"
        elif evidence.manifest is None:
            self.skipped["manifest"] = "manifest.parquet can't be read"

    def _check_shards(self, plan: Plan) -> None:
        """Checks that shards, plan and manifest have the same splits."""
        evidence, planned = self.evidence, self.evidence.planned
        for split in sorted(evidence.there - planned):
            evidence.add("shards", self._shard_name(split), "is foreign: the plan does not know it")
        for split in sorted(evidence.recorded.keys() - planned):
            evidence.add("shards", "manifest.parquet", f"has split {split}, which the plan does not know")
        # An unfinished run always lacks shards; a finished one may lack those of failed files.
        missing = planned - evidence.there if evidence.finished else set()
        failed = set(evidence.summary.get("failed_files", ()))
        for split, pieces in plan.splits() if missing else ():
            known = split in evidence.recorded
            if split in missing and (known or not failed.issuperset(piece.source_file for piece in pieces)):
                has = "the plan and the manifest have it" if known else "the plan has it"
                evidence.add("shards", self._shard_name(split), f"is missing: {has}")
        self.figures["shards"] = {"planned": len(planned), "there": len(evidence.there)}

    def _check_manifest(self) -> None:
        """Checks that the manifest has each shard once, and that the summary is its sum."""
        evidence, manifest = self.evidence, self.evidence.manifest
        if manifest is None:
            return
        for split in sorted((evidence.there & evidence.planned) - evidence.recorded.keys()):
            evidence.add("manifest", self._shard_name(split), "has no row in manifest.parquet")
        for split, rows in Counter(manifest["split_id"].to_pylist()).items():
            if rows > 1:
                evidence.add("manifest", "manifest.parquet", f"has split {split} {rows} times")
        sums = counts(manifest) | {"shards": manifest.num_rows}
        for name, value in sums.items() if evidence.summary else ():
            # A summary of an older version lacks what its shards lack, too: their sum is 0.
            if evidence.summary.get(name, 0) != value:
                what = f"{name} is {evidence.summary.get(name)}, the sum of manifest.parquet {value}"
                evidence.add("manifest", "summary.json", what)
        self.figures["manifest"] = {name: sums[name] for name in ("rows", "rejects", "tokens", "truncated")}

    def _check_ranges(self, plan: Plan) -> None:
        """Checks that no two splits own the same rows; then rows in their own split's ranges are unique."""
        cut = plan.pieces.filter(pc.is_valid(plan.pieces["split_id"]))
        ranges = pa.table({"file": source_files(cut), "start": cut["start"], "stop": cut["stop"]})
        ranges = ranges.sort_by([(name, "ascending") for name in ranges.column_names]).combine_chunks()
        same = pc.equal(ranges["file"][1:], ranges["file"][:-1]).to_numpy()
        overlap = same & (ranges["start"].to_numpy()[1:] < ranges["stop"].to_numpy()[:-1])
        for row in np.flatnonzero(overlap).tolist():
            what = f"two splits own rows of {ranges['file'][row]} from {ranges['start'][row + 1]} on"
            self.evidence.add("duplicates", "plan.parquet", what)

    def _check_contents(self, plan: Plan, expected: Expected) -> set[str]:
        """Checks each shard, and the sums over all; returns the splits that have findings."""
        evidence = self.evidence
        telemetry.event("reading", shards=len(evidence.there & evidence.planned))
        pieces, totals, unsound = {}, Counter[str](), set()
        with repeats() as ids:
            shards = self._shards(plan, expected)
            for audited in spread_out(audit_shard, shards, len(evidence.there), THREADS):
                evidence.found.extend(audited.findings)
                ids.add(audited.ids.digests)
                totals["null_ids"] += audited.ids.nulls
                if audited.findings:
                    unsound.add(audited.split_id)
                if audited.contents:
                    pieces[audited.split_id] = audited.contents["pieces"]
                    totals.update(
                        {name: audited.contents[name] for name in ("rows", "rejects", "file_bytes")}
                    )
            self._note_ids(totals["null_ids"], ids.count())
        self._check_reconciliation(plan, pieces)
        rows, rejects = {"rows": totals["rows"]}, {"rejects": totals["rejects"]}
        self.figures |= {
            "schema": {"columns": len(expected.columns)},
            "checksums": {"bytes": totals["file_bytes"]},
            "duplicates": {**rows, **rejects, **self.figures["duplicates"]},
            **_outputs(expected.outputs, rows),
            "rejects": {**rejects},
        }
        return unsound

    def _note_ids(self, nulls: int, repeated: int) -> None:
        """Notes ids that identify no row: they are faults of the source, not of the dataset."""
        self.figures["duplicates"] = {"null ids": nulls, "repeated ids": repeated}
        if nulls or repeated:
            self.notes.append(f"ids: {nulls} rows have no id, and {repeated} the id of another row")

    def _shards(self, plan: Plan, expected: Expected) -> Iterator[Shard]:
        columns = id_columns(self.evidence.identity.dataset_fields)
        for split, pieces in plan.splits():
            if split in self.evidence.there:
                record = self.evidence.record(split)
                id_column = columns.get(pieces[0].source)
                yield Shard(self._root, self.options, split, pieces, record, expected, id_column)

    def _check_reconciliation(self, plan: Plan, pieces: Mapping[str, list[dict[str, Any]]]) -> None:
        """Checks that each planned row of the readable shards is embedded or rejected in them."""
        held = pa.chunked_array([pa.array(pieces.values(), pa.list_(schema.PIECE))])
        for file, what in unaccounted(plan.pieces, held, set(pieces)):
            self.evidence.add("reconciliation", file, what)
        documents = sum(piece["rows"] + piece["rejects"] for each in pieces.values() for piece in each)
        self.figures["reconciliation"] = {"files": len(plan.versions()), "documents": documents}

    def _check_changes(self) -> None:
        """Checks the changes since other datasets, which lie in this one."""
        evidence = self.evidence
        if not evidence.finished or evidence.manifest is None:
            self.skipped["changes"] = "a run writes them when it is done"
            return
        found = changes_audit.folders(evidence.dataset, evidence.manifest, self.options)
        self.notes += found.notes
        for finding in found.findings:
            evidence.add("changes", finding.where, finding.what)
        files = 0
        for findings in spread_out(changes_audit.audit_part, found.parts, len(found.parts), THREADS):
            evidence.found.extend(findings)
            files += 1
        self.figures["changes"] = {"datasets compared": found.complete, "files": files}

    def _check_source(self, plan: Plan) -> None:
        """Checks whether the sources are still as planned; if not, that is a note, not a finding."""
        if self.config is None:
            self.skipped["source"] = "only with --config FILE: where a dataset says they lie is not followed"
            return
        try:
            moved = no_longer_as_planned(self.config, plan)
        except PipelineError as error:
            self.skipped["source"] = str(error).splitlines()[0]
            return
        self.notes += [f"source: {file} {what}" for file, what in sorted(moved.items())]
        self.figures["source"] = {"files": len(plan.versions()), "no longer as planned": len(moved)}

    def _check_deep(self, plan: Plan, expected: Expected, unsound: set[str], config: Config) -> None:
        """Embeds drawn rows of the shards without findings again."""
        telemetry.event("embedding again", fraction=self.deep)
        rows, unchecked, nearness = 0, 0, math.inf
        samples = self._samples(plan, unsound, config)
        for compared in spread_out(reembed_shard, samples, len(self.evidence.there), 1):
            self.evidence.found.extend(compared.findings)
            rows, unchecked = rows + compared.rows, unchecked + compared.unchecked
            nearness = min(nearness, compared.nearness)
        self.figures["deep"] = {"rows compared": rows, "rows not checked": unchecked}
        if math.isfinite(nearness):
            self.figures["deep"][f"least {MEASURES[expected.outputs.vector]}"] = nearness
        if unchecked:
            self.notes.append(f"deep: {unchecked} rows were not checked: their source is gone or has changed")
        if unsound:
            self.notes.append(f"deep: {len(unsound)} shards with findings were left out")

    def _samples(self, plan: Plan, unsound: set[str], config: Config) -> Iterator[Sample]:
        told = config.model_dump_json()
        digests = plan.dataset_digest, self.evidence.identity.vector_digest
        for split, pieces in plan.splits():
            if split in self.evidence.there and split not in unsound:
                yield Sample(self._root, self.options, split, pieces, self.deep, *digests, told)


def _outputs(spec: OutputSpec, rows: Mapping[str, int]) -> dict[str, dict[str, int | float | str]]:
    """Returns the figures of the checks of vectors and of other outputs."""
    found: dict[str, dict[str, int | float | str]] = {}
    if "embedding" in spec.names:
        found["vectors"] = {**rows, "kind": spec.vector, "dimensions": spec.dimension}
    if spec.labels or outputs.of_tokens(spec.names):
        found["outputs"] = {**rows, "labels": sum(map(len, spec.labels.values()))}
    return found
