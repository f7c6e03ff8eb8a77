"""A dataset: who it belongs to, which shards it has, what is known of them.

The name is the identity, existence is the commit: a shard that stands under its name is whole and final.
LIST is the truth; the ledger saves reading footers, and nothing is lost with it.
"""

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema, storage, telemetry, vectors
from pipeline.checkpoint import Checkpoint
from pipeline.config import Config
from pipeline.errors import ExistsError, MissingError, OtherDatasetError, StorageError
from pipeline.layout import Layout
from pipeline.places import Options, check_url, redact
from pipeline.recipe import Recipe

OPERATIONAL = re.compile(
    r"(compute|quality|report|reuse|cost|output\.(path|run_date|options)|source\.[^.]+\.options)(\.|$)"
)
"""Config that never changes a shard, and so may differ when resuming. What is not listed counts."""
FLUSH_SECONDS = 60
FOOTER_THREADS = 32
ARCHITECTURE = {
    "num_hidden_layers": None, "num_hidden_groups": 1, "inner_group_num": 1, "hidden_size": None,
    "num_attention_heads": None, "intermediate_size": None, "embedding_size": None, "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-12,
}  # fmt: skip
"""What config.json says of the arithmetic, and what transformers takes where it says nothing."""


@dataclass(frozen=True)
class Identity:
    """All that a dataset is made of, as flat `name: value` fields, and digests of it.

    Vectors may be reused under an equal vector digest; shards belong together under an equal dataset digest.
    """

    vector_fields: Mapping[str, Any]
    dataset_fields: Mapping[str, Any]

    @classmethod
    def of(cls, config: Config, checkpoint: Checkpoint) -> Self:
        # The recipe stands for the config's model: contents count, not names, nor where they lie.
        recipe = Recipe.of(checkpoint, config.model)
        model = {f"model.{key}": value for key, value in recipe.fields().items()}
        model |= {"model.dtype": config.dtype}
        model |= {"model.weights": checkpoint.weights_digest, "model.tokenizer": checkpoint.tokenizer_digest}
        model |= {
            f"model.config.{key}": checkpoint.config.get(key, default)
            for key, default in ARCHITECTURE.items()
        }
        flat = _flatten(config.model_dump(mode="json"))
        rest = {
            key: value
            for key, value in flat.items()
            if not (key.startswith("model.") or OPERATIONAL.match(key))
        }
        return cls(model, rest)

    @property
    def vector_digest(self) -> str:
        return _digest(self.vector_fields)

    @property
    def dataset_digest(self) -> str:
        return _digest({**self.vector_fields, **self.dataset_fields})

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        model = self.vector_fields
        pooled = model["model.config.hidden_size"] * len(model["model.pooling"].split("+"))
        width = model["model.dense"][-1]["outputs"] if model["model.dense"] else pooled
        return int(model["model.truncate_dim"] or width)

    def shard_schema(self, columns: pa.Schema) -> pa.Schema:
        """Returns the schema of every shard; asks no checkpoint.

        Args:
            columns: the plan's id and carried columns.
        """
        rows = schema.rows_schema(columns, chunked=self.vector_fields["model.long_text"] == "chunks")
        kind = self.vector_fields["model.vector"]
        return schema.shard_schema(rows, vectors.stored_fields(kind, self.dimension))

    def to_bytes(self, config: Config, base: str | None = None) -> bytes:
        """As dataset.json; `base` is the path of the dataset whose vectors may be reused."""
        content = {
            "format_version": schema.FORMAT_VERSION,
            "base": base,
            "vector_digest": self.vector_digest,
            "dataset_digest": self.dataset_digest,
            "vector_fields": self.vector_fields,
            "dataset_fields": self.dataset_fields,
            "config": config.model_dump(mode="json"),
        }
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """From dataset.json.

        Raises:
            OtherDatasetError: it is not of this version of the format.
        """
        content = json.loads(data)
        if content.get("format_version") != schema.FORMAT_VERSION:
            got = f"format version {content.get('format_version')}"
            raise OtherDatasetError(
                "is of another version of this program",
                where,
                got,
                hint="use that version, or a new output.path",
            )
        return cls(content["vector_fields"], content["dataset_fields"])

    def differences(self, other: "Identity") -> list[str]:
        """`field: theirs, ours` for each field that differs."""
        ours = {**self.vector_fields, **self.dataset_fields}
        theirs = {**other.vector_fields, **other.dataset_fields}
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        return [f"{name}: {_brief(theirs.get(name))} there, {_brief(ours.get(name))} here" for name in names]


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What is known of one shard (`schema.RECORD`); kept in its footer, in the ledger and in the manifest."""

    split_id: str
    rows: int
    reused: int
    rejects: int
    transient: int
    tokens: int
    computed_tokens: int
    padded_tokens: int
    truncated: int
    token_histogram: Sequence[int]
    reasons: Sequence[Mapping[str, Any]]
    text_bytes: int
    read_bytes: int
    content_digest: str
    rejects_file: str | None
    pieces: Sequence[Mapping[str, Any]]
    read_seconds: float
    tokenize_seconds: float
    encode_seconds: float
    idle_seconds: float
    written_at: float
    cache_hits: int
    cache_misses: int
    attempt: str
    storage_retries: int = 0
    write_seconds: float = 0.0
    file_bytes: int = 0

    def to_json(self) -> str:
        """For the footer, which can't know of its own write: how large, how long, how often tried."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_footer(cls, metadata: Mapping[bytes, bytes] | None, info: storage.ObjectInfo) -> Self:
        """From a shard's footer.

        Raises:
            OtherDatasetError: no shard of ours has such a footer.
        """
        text = (metadata or {}).get(schema.RECORD_KEY)
        if text is None:
            raise OtherDatasetError(
                "is no shard of ours: its footer has no record", info.path, hint="move it away"
            )
        return cls(**(json.loads(text) | {"file_bytes": info.size}))


class Dataset:
    """The dataset at a path, there or not yet."""

    def __init__(self, root: str, options: Options | None = None) -> None:
        self.layout = Layout(root)
        self.storage = storage.connect(root, options)

    @classmethod
    def of(cls, config: Config) -> Self:
        """The dataset that a config writes."""
        return cls(config.output.path, config.output.options)

    def refuse_unconditional(self) -> None:
        """Refuse a storage on which writers of one dataset could undo each other's work.

        Raises:
            ConfigError: its storage has no conditional replacement.
        """
        if not self.storage.conditional:
            raise storage.unconditional(self.layout.root)

    def identity(self) -> Identity | None:
        """Whose dataset this is; None while it is nobody's."""
        try:
            data = self.storage.read(self.layout.identity)
        except MissingError:
            return None
        return Identity.from_bytes(data, self.layout.identity)

    def refuse_other(self, identity: Identity) -> bool:
        """Whether the dataset is there already, as `identity`'s.

        Raises:
            OtherDatasetError: it is there as another's; every field that differs is named.
        """
        found = self.identity()
        if found is None:
            return False
        if differences := identity.differences(found):
            lines = "\n  ".join(["was made by another config:", *differences])
            hint = "set output.path to a new dataset, or take the config back"
            raise OtherDatasetError(lines, self.layout.root, hint=hint)
        return True

    def base(self) -> str | None:
        """The path of the dataset whose vectors this one may reuse: what its first driver chose.

        Raises:
            OtherDatasetError: it can't be a path or URL that a driver of ours wrote.
        """
        found = json.loads(self.storage.read(self.layout.identity)).get("base")
        try:
            if found and not str(found).isprintable():
                raise ValueError("it has characters that can't be shown")
            return check_url(str(found)) if found else None
        except ValueError as error:
            hint = "put back the dataset.json that the run wrote"
            got = redact(repr(found))
            raise OtherDatasetError(f"base: {error}", self.layout.identity, got, hint) from None

    def claim(self, identity: Identity, config: Config, base: str | None = None) -> None:
        """Make the dataset this identity's, or find that it is.

        Raises:
            OtherDatasetError: it is another's.
        """
        try:
            self.storage.put_if_absent(self.layout.identity, identity.to_bytes(config, base))
        except ExistsError:
            self.refuse_other(identity)

    def plan(self) -> bytes | None:
        """The frozen plan."""
        try:
            return self.storage.read(self.layout.plan)
        except MissingError:
            return None

    def freeze(self, plan: bytes) -> bytes:
        """Freeze the plan; what comes back is the one that holds, ours or a rival's."""
        try:
            self.storage.put_if_absent(self.layout.plan, plan)
        except ExistsError:
            return self.storage.read(self.layout.plan)
        return plan

    def complete(self) -> bool:
        """Whether the dataset is committed: nothing in it changes any more."""
        return self.storage.exists(self.layout.success)

    def shards(self) -> dict[str, storage.ObjectInfo]:
        """The shards that are there, by split id.

        Raises:
            OtherDatasetError: a file among them is no shard.
        """
        shards = {}
        for name, info in self.storage.folder(self.layout.data, Layout.shard_edges()).items():
            if name == "_SUCCESS":
                continue
            split_id = Layout.split_of_shard(name)
            if split_id is None:
                raise OtherDatasetError("does not belong here", info.path, hint="move it away")
            shards[split_id] = info
        return shards

    def records(self, shards: Mapping[str, storage.ObjectInfo]) -> pa.Table:
        """The record of each shard: from the ledger, and of the rest from their footers."""
        wanted = pa.array(list(shards), pa.string())
        sizes = pa.array([info.size for info in shards.values()], pa.int64())
        files = sorted(self.storage.folder(self.layout.ledger).items())
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            data = pool.map(
                self.storage.read, [info.path for name, info in files if name.endswith(".parquet")]
            )
            ledger = [pq.read_table(pa.BufferReader(each), schema=schema.RECORD) for each in data]
            known = pa.concat_tables([schema.RECORD.empty_table(), *ledger])
            # A record of another size is of a shard that was removed and made anew.
            there = pc.take(sizes, pc.index_in(known.column("split_id"), wanted))
            holds = pc.equal(there, known.column("file_bytes")).fill_null(False)
            known = known.take(_last_of_each(known.column("split_id"), pc.indices_nonzero(holds)))
            rest = pc.filter(wanted, pc.invert(pc.is_in(wanted, known.column("split_id").combine_chunks())))
            read = pool.map(lambda split_id: self.footer(shards[split_id]), rest.to_pylist())
            return pa.concat_tables([known, to_table(list(read))])

    def manifest(self) -> pa.Table:
        """The record of each shard (`schema.RECORD`) of a complete dataset."""
        data = self.storage.read(self.layout.manifest)
        return pq.read_table(pa.BufferReader(data), schema=schema.RECORD)

    def attempts(self, ledger: Mapping[str, storage.ObjectInfo] | None = None) -> list[dict[str, Any]]:
        """What each attempt left of itself, oldest first.

        Args:
            ledger: the folder, if it was listed already.
        """
        files = self.storage.folder(self.layout.ledger) if ledger is None else ledger
        names = sorted(name for name in files if name.endswith(".json"))
        return [json.loads(self.storage.read(files[name].path)) for name in names]

    def attempt_names(self) -> list[str]:
        """All attempts at this dataset."""
        names = self.storage.folder(self.layout.ledger)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def footer(self, info: storage.ObjectInfo) -> ShardRecord:
        """The record in a shard's footer."""
        with self.storage.open(info.path) as file:
            try:
                metadata = pq.read_metadata(file).metadata
            except pa.ArrowInvalid as error:
                raise StorageError(
                    "is damaged: a shard whose footer can't be read",
                    info.path,
                    str(error),
                    hint="remove it and run again: it is made anew",
                ) from None
        return ShardRecord.from_footer(metadata, info)


class Ledger:
    """Shard records on their way to storage: flushed once a minute, none kept after that."""

    def __init__(self, dataset: Dataset, attempt: str) -> None:
        self.dataset, self.attempt = dataset, attempt
        self.waiting: list[ShardRecord] = []
        self.files, self.flushed = 0, time.monotonic()

    def add(self, record: ShardRecord) -> None:
        """Take in one record."""
        self.waiting.append(record)
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self.waiting:
            path = self.dataset.layout.ledger_file(self.attempt, self.files)
            try:
                self.dataset.storage.put(path, parquet_bytes(to_table(self.waiting)))
            except StorageError as error:  # the shards are safe, and their footers say the same
                telemetry.event("ledger not written", reason=str(error))
            else:
                self.files += 1
                self.waiting = []
        self.flushed = time.monotonic()


def to_table(records: Sequence[ShardRecord]) -> pa.Table:
    """Records as a table of `schema.RECORD`."""
    return pa.Table.from_pylist([dataclasses.asdict(record) for record in records], schema=schema.RECORD)


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; the same bytes for the same table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _last_of_each(ids: pa.ChunkedArray, positions: pa.Array) -> pa.Array:
    """Of these positions the last one of each id."""
    table = pa.table({"id": ids.take(positions), "position": positions})
    return table.group_by("id").aggregate([("position", "max")]).column("position_max")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _digest(fields: Mapping[str, Any]) -> str:
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}…{text[-6:]}"
