"""Forecasts what a run would do, and roughly what it would cost.

The plan counts some figures; the others are estimated from a sample of the texts (`sampling`). Nothing is
written. Unknown figures stay unknown: no hours without a rate, no cost without a price.

Cost: planning, O(shards) of the dataset and of its base, and the sample.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, storage
from pipeline.config.sections import Config
from pipeline.dataset.damage import unless_damaged
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import RECORD
from pipeline.estimate import legibility, sampling, token_lengths, warnings
from pipeline.estimate.dialects import dialect_clues
from pipeline.estimate.legibility import Legibility
from pipeline.estimate.sampling import Sample, Stratum
from pipeline.estimate.token_lengths import Tokens
from pipeline.estimate.warnings import PlanWarning
from pipeline.model import outputs
from pipeline.model.check import usable_checkpoint
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.output_spec import OutputSpec
from pipeline.model.tokenizer.auto_tokenizer import differences
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.nightly.base import Base
from pipeline.nightly.choose_base import open_base, resolve_base
from pipeline.nightly.copy_shards import copyable_shards
from pipeline.plan import sizing
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan, extent, source_files
from pipeline.plan.sizing import CPU_FLOPS, ROW_BYTES


@dataclass(frozen=True)
class Reuse:
    """The work that the base saves.

    copied, copied_rows: the split ids of shards that are copied completely, and their rows.
    unchanged, unchanged_rows: files whose vectors are all taken from the base, and their rows in the base.
    changed_rows: rows in the base of files that changed; at most so many of their vectors are taken.
    """

    base: str
    copied: tuple[str, ...] = ()
    copied_rows: int = 0
    unchanged: tuple[str, ...] = ()
    unchanged_rows: int = 0
    changed_rows: int = 0


@dataclass(frozen=True)
class Rate:
    """Tokens that a replica computes in a second; None if unknown.

    by: the origin of the rate: "config", "this dataset", "base", "guess" or "none".
    """

    tokens_per_second: float | None
    by: str
    measured_tokens: int = 0


@dataclass(frozen=True)
class Forecast:
    """A forecast of what a run would do.

    state: "new", "unfinished" (a plan is frozen) or "complete".
    todo: the plan of what would be embedded: not done, not copied, and not taken from unchanged files of the
        base.
    clues: what speaks against the dialect of a CSV file, by its name.
    """

    config: Config
    checkpoint: Checkpoint
    state: str
    made: Plan
    pending: Plan
    todo: Plan
    reuse: Reuse | None
    sample: Sample
    rate: Rate
    clues: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def recipe(self) -> EmbeddingSpec:
        return EmbeddingSpec.of(self.checkpoint, self.config.model)

    @cached_property
    def files(self) -> pa.Table:
        """Returns `source`, `file` and `size` of each planned file."""
        found = self.made.pieces.group_by(["source", "file"]).aggregate([("size", "max")])
        return found.rename_columns(["source", "file", "size"])

    @property
    def scans(self) -> int:
        """Counts the passes over files that reading the pending splits takes."""
        return int(pc.count_distinct(self.pending.pieces.column("scan")).as_py())

    @property
    def counted_rows(self) -> int:
        """Counts the rows of files that are cut by rows."""
        return _size(self.made.pieces, "rows")

    @property
    def estimated_rows(self) -> int | None:
        """Estimates the rows of files that are cut by bytes from sampled lengths; None without a sample."""
        total = 0.0
        for name in self.config.source:
            of_source = self.made.pieces.filter(pc.equal(self.made.pieces.column("source"), name))
            size = _size(of_source, "bytes")
            seen = [each for each in self.sample.strata if (each.source, each.unit) == (name, "bytes")]
            if size and not any(each.covered for each in seen):
                return None
            total += sum(size * each.documents / each.covered for each in seen if each.covered)
        return round(total)

    def _expected(self, of: Callable[[Stratum], int]) -> int | None:
        """Extrapolates a count from the sample to all planned work; None if a stratum has no sample."""
        if any(not stratum.covered for stratum in self.sample.strata):
            return None
        return round(sum(stratum.weight * of(stratum) for stratum in self.sample.strata))

    @property
    def texts(self) -> int | None:
        """Estimates the documents that would be embedded."""
        return self._expected(lambda seen: seen.texts)

    @property
    def rejects(self) -> int | None:
        """Estimates the documents that would be rejected."""
        return self._expected(lambda seen: seen.rejects.total())

    @property
    def tokens(self) -> int | None:
        """Estimates the tokens that would be computed."""
        return self._expected(lambda seen: int(seen.lengths.sum()))

    @property
    def new_rows(self) -> int | None:
        """Estimates the rows of the shards that would be made: documents, or their windows."""
        return self._expected(lambda seen: len(seen.lengths)) if self.recipe.chunked else self.texts

    @property
    def shard_bytes(self) -> int | None:
        """Estimates the bytes of these rows, without carried columns."""
        rows, tokens = self.new_rows, self.tokens
        if rows is None or tokens is None:
            return None
        return round(rows * (self.output_bytes + ROW_BYTES) + tokens * outputs.token_bytes(self.outputs))

    @property
    def dimension(self) -> int:
        return self.recipe.dimension(self.checkpoint)

    @cached_property
    def outputs(self) -> OutputSpec:
        """Returns the description of the outputs."""
        return self.recipe.output_spec(self.checkpoint)

    @property
    def output_bytes(self) -> float:
        """Estimates the bytes of the outputs of a row, without those of its tokens."""
        return outputs.row_bytes(self.outputs)

    @property
    def hours(self) -> float | None:
        """Estimates the hours that one replica computes."""
        rate, tokens = self.rate.tokens_per_second, self.tokens
        return None if rate is None or tokens is None else tokens / rate / 3600

    @property
    def price(self) -> float | None:
        """Returns the price of these hours."""
        price, hours = self.config.cost.price_per_hour, self.hours
        return None if price is None or hours is None else price * hours

    @property
    def replicas(self) -> int | None:
        """Returns how many replicas can be busy at a time; None if the cluster decides."""
        most = self.config.compute.max_replicas
        return min(most, len(self.todo.split_ids)) if most else None

    @property
    def payload_bytes(self) -> int:
        """Estimates the bytes of the largest split between two stages."""
        return sizing.payload_bytes(self.made, self.config, self.checkpoint)

    @cached_property
    def lengths(self) -> Tokens | None:
        """Returns the lengths of the sample's rows; None if it is empty."""
        return token_lengths.distribution(self.sample.strata)

    @cached_property
    def legibility(self) -> Legibility:
        """Returns what the model can read of the sample, each stratum by what it stands for."""
        return legibility.joined((each.weight, each.legibility) for each in self.sample.strata)

    @cached_property
    def cautions(self) -> list[PlanWarning]:
        """Returns warnings about the plan and the sample."""
        pending = self.pending.pieces
        return [
            *warnings.no_rows(self.made, self.config),
            *warnings.unread(self.sample.strata),
            *warnings.empty_texts(self.sample.strata),
            *warnings.invalid_rows(self.sample.strata),
            *warnings.dialect(self.clues),
            *warnings.unknown_tokens(self.legibility),
            *warnings.alike(self.legibility),
            *warnings.bad_ids(self.sample.strata),
            *warnings.truncated(self.lengths, self.recipe),
            *warnings.unsplittable(pending),
            *warnings.tiny_files(self.files),
            *warnings.large_split(pending),
            *warnings.without_id(self.config),
            *warnings.plain_http(self.config),
            *warnings.idle_replicas(self.config, len(self.todo.split_ids)),
            *warnings.tokenizer(differences(self.checkpoint)),
        ]

    def fields(self) -> dict[str, Any]:
        """Returns everything by stable names: sizes in bytes, times in hours, fractions of 1."""
        return {
            "output": self.config.output.path,
            "state": self.state,
            "files": self.files.num_rows,
            "bytes": schema.total(self.files, "size"),
            "failed_files": self.made.failed_files,
            "empty_files": self.made.empty_files,
            "passed_over": self.made.passed_over,
            "snapshots": self.made.snapshots,
            "counted_rows": self.counted_rows,
            "estimated_rows": self.estimated_rows,
            "splits": len(self.made.split_ids),
            "pending": len(self.pending.split_ids),
            "bytes_to_read": self.pending.stored_bytes,
            "scans": self.scans,
            "columns": [*self.made.columns.names, *(each.name for each in outputs.fields(self.outputs))],
            "dimension": self.dimension,
            "outputs": list(self.recipe.outputs),
            "labels": self.outputs.labels,
            "reuse": _reuse_fields(self.reuse),
            "embed": {
                "splits": len(self.todo.split_ids),
                "texts": self.texts,
                "rejects": self.rejects,
                "rows": self.new_rows,
                "tokens": self.tokens,
            },
            "sample": sample_fields(self.sample, self.lengths, self.legibility),
            "max_tokens": self.recipe.max_tokens,
            "tokens_per_second": self.rate.tokens_per_second,
            "rate_by": self.rate.by,
            "rate_measured_tokens": self.rate.measured_tokens,
            "encoder_hours": self.hours,
            "replicas": self.replicas,
            "price": self.price,
            "currency": self.config.cost.currency,
            "shard_bytes": self.shard_bytes,
            "payload_bytes": self.payload_bytes,
            "cautions": [asdict(caution) for caution in self.cautions],
        }


def forecast(config: Config) -> Forecast:
    """Forecasts what `run` would do with this config now.

    Raises:
        PipelineError: a run would end with this error at once.
    """
    checkpoint = usable_checkpoint(config)
    identity = Identity.of(config, checkpoint)
    dataset = Dataset.of(config)
    dataset.refuse_unconditional(live=False)  # nothing is written here
    claimed = dataset.refuse_other(identity)
    frozen = dataset.plan() if claimed else None
    made = frozen or make_plan(config, checkpoint, identity.dataset_digest)
    shards = dataset.shards()
    pending = made.pending(shards)
    state = "new" if not frozen else "complete" if dataset.complete() else "unfinished"
    base = _base(config, dataset if frozen else None, identity)
    spared = _spared(config, base, identity, pending) if base else None
    todo = _todo(pending, spared)
    recipe = EmbeddingSpec.of_config(checkpoint, config)
    sample = sampling.draw(
        todo.pieces, made.columns, config, recipe, Tokenizer(checkpoint, recipe.max_tokens)
    )
    records = dataset.records(shards) if shards else RECORD.empty_table()
    rate = _rate(config, checkpoint, dataset, records, base)
    clues = dialect_clues(todo.pieces, config)
    return Forecast(config, checkpoint, state, made, pending, todo, spared, sample, rate, clues)


def _base(config: Config, frozen: Dataset | None, identity: Identity) -> Base | None:
    """Opens the base that a run would use: the dataset's own, once it has a plan."""
    path = frozen.base() if frozen else resolve_base(config.absolute())
    return open_base(path, identity, config.output.options) if path else None


def _alike(config: Config, file: str, versions: Mapping[str, str], version: str) -> bool:
    """Tells whether the base was made of this version of a file."""
    source = config.source[file.partition("/")[0]]
    return storage.connect(source.path, source.options).same(versions.get(file, ""), version)


def _spared(config: Config, base: Base, identity: Identity, pending: Plan) -> Reuse:
    """Computes what the base saves from its manifest and plan alone; opens no shard."""
    records = copyable_shards(base, identity, pending)
    copied = pa.array([record["split_id"] for record in records], pa.string())
    left = pending.pending(copied.to_pylist()).pieces
    rows = _rows_of_files(base.manifest)
    others = _rows_of_files(base.manifest.filter(pc.invert(pc.is_in(base.manifest["split_id"], copied))))
    versions = base.versions()
    files = dict(zip(source_files(left).to_pylist(), left.column("version").to_pylist(), strict=True))
    unchanged = [
        file for file, version in files.items() if rows.get(file) and _alike(config, file, versions, version)
    ]
    taken = set(unchanged)
    changed = [file for file in files if file in others and file not in taken]
    return Reuse(
        base.path,
        tuple(copied.to_pylist()),
        sum(record["rows"] for record in records),
        tuple(unchanged),
        sum(others.get(file, 0) for file in unchanged),
        sum(others[file] for file in changed),
    )


def _rows_of_files(manifest: pa.Table) -> dict[str, int]:
    """Counts the embedded rows of each source file."""
    found = schema.structs(manifest.column("pieces"), schema.PIECE)
    return schema.sum_by(source_files(found), found.column("rows"))


def _todo(pending: Plan, spared: Reuse | None) -> Plan:
    if spared is None:
        return pending
    left = pending.pending(spared.copied)
    known = pc.is_in(source_files(left.pieces), pa.array(spared.unchanged, pa.string()))
    return replace(left, pieces=left.pieces.filter(pc.invert(known)))


def _rate(
    config: Config, checkpoint: Checkpoint, dataset: Dataset, records: pa.Table, base: Base | None
) -> Rate:
    """Returns the config's rate, else one measured on the same device, else a guess, for CPUs only."""
    if config.cost.tokens_per_second:
        return Rate(config.cost.tokens_per_second, "config")
    places = [("this dataset", dataset, records)]
    places += [("base", base.dataset, base.manifest)] if base else []
    for name, where, found in places:
        tokens, seconds = (schema.total(found, each) for each in ("computed_tokens", "encode_seconds"))
        device = unless_damaged("no rate is taken", where.layout.root, partial(_device, where))
        if tokens and seconds and device == config.compute.device:
            return Rate(tokens / seconds, name, tokens)
    if config.compute.device == "cpu":
        return Rate(CPU_FLOPS / checkpoint.flops_per_token, "guess")
    return Rate(None, "none")


def _device(dataset: Dataset) -> str | None:
    """Returns the device in the config of a dataset's first driver."""
    found = (dataset.claim_file().config.get("compute") or {}).get("device")
    return str(found) if found else None


def _size(pieces: pa.Table, unit: str) -> int:
    """Sums the sizes of the pieces that are cut by a unit, in that unit, without deleted rows of tables."""
    part = pieces.filter(pc.equal(pieces.column("unit"), unit).fill_null(False))
    return extent(part) - int(schema.total(part, "deleted_rows"))


def _reuse_fields(found: Reuse | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "base": found.base,
        "copied_shards": len(found.copied),
        "copied_rows": found.copied_rows,
        "unchanged_files": len(found.unchanged),
        "unchanged_rows": found.unchanged_rows,
        "changed_rows_at_most": found.changed_rows,
    }


def sample_fields(sample: Sample, lengths: Tokens | None, known: Legibility) -> dict[str, Any]:
    """Returns the sample by stable names, as `Forecast.fields` has it."""
    buckets = lengths.histogram.items() if lengths else ()
    return {
        "stretches": sample.stretches,
        "files": sample.files,
        "read_bytes": sample.read_bytes,
        "texts": sum(each.texts for each in sample.strata),
        "text_bytes": sum(each.text_bytes for each in sample.strata),
        "rejects": dict(sum((each.rejects for each in sample.strata), start=Counter())),
        "tokens_mean": lengths and lengths.mean,
        "tokens_p50": lengths and lengths.p50,
        "tokens_p95": lengths and lengths.p95,
        "tokens_max": lengths and lengths.longest,
        "truncated": lengths and lengths.truncated,
        "histogram": [{"up_to": bound, "part": part} for bound, part in buckets],
        "padded_per_token": lengths and lengths.padded,
        "unknown_tokens": known.unknown_fraction,
        "scripts": [
            {"script": script, "tokens": tokens, "unknown": known.unknown[script]}
            for script, tokens in known.tokens.most_common()
        ],
        "different_texts": known.texts,
        "alike_texts": known.alike,
        "null_ids": sum(each.null_ids for each in sample.strata),
        "repeated_ids": sum(each.repeated_ids for each in sample.strata),
    }
