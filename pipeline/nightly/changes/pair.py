"""Opens the two datasets that are compared, and says which of their shards must be read.

A shard that both have under one name, with one content, is skipped: its name covers the config, the model and
the version of each source file. All others are compared row by row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.config.location import Options
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import finished
from pipeline.dataset.identifiers import id_columns
from pipeline.dataset.identity import Identity
from pipeline.dataset.layout import ChangesLayout
from pipeline.dataset.record import read_records
from pipeline.errors import OtherDatasetError, SeriesError
from pipeline.nightly.base import Digests
from pipeline.nightly.changes.fingerprint import NEW, OLD, SHARED, ShardToRead
from pipeline.nightly.names import is_dataset_name

CHANGE = "change"
"""The column that says what happened to a row."""
PLACE = ("source_file", "source_row")
SAME = ("split_id", "content_digest", "rows")
"""The fields of its record by which a shard is known to be another one's copy."""
OWN_ID = "id"
"""The column that identifies the rows of sources that name no column for that."""


@dataclass(frozen=True)
class Side:
    """One of the two datasets: complete, so that nothing in it changes any more.

    proven: its commit has checked that ids are unique (`quality.unique_ids`).
    """

    dataset: Dataset
    options: Options
    identity: Identity
    claim: str
    columns: pa.Schema
    manifest: pa.Table
    manifest_digest: str
    proven: bool

    @classmethod
    def at(cls, path: str, options: Options) -> Self:
        """Opens a dataset.

        Raises:
            SeriesError: it is not complete.
            OtherDatasetError: it is of another version of the format.
            DamagedError: its files can't be read.
        """
        dataset = Dataset(path, options)
        ending = finished(dataset)
        if ending is None:
            hint = "run its config to its end, or name another"
            raise SeriesError("is not a complete dataset", path, hint=hint)
        data = dataset.storage.read(dataset.layout.manifest)
        columns = dataset.required_plan().columns
        # Afterwards: a run that makes a dataset again writes dataset.json first.
        claim = dataset.claim_file()
        identity = claim.identity()
        return cls(
            dataset,
            options,
            identity,
            claim.token,
            identity.shard_schema(columns),
            read_records(data, dataset.layout.manifest),
            sha256(data).hexdigest(),
            ending.summary.get("repeated_ids") == 0,
        )

    @property
    def root(self) -> str:
        return self.dataset.layout.root

    @property
    def name(self) -> str:
        return self.root.rpartition("/")[2]

    @property
    def rows(self) -> int:
        return int(schema.total(self.manifest, "rows"))

    @cached_property
    def id_columns(self) -> dict[str, str]:
        """Returns the column that identifies the rows of each source."""
        named = id_columns(self.identity.dataset_fields)
        return {source: named.get(source, OWN_ID) for source in self.sources}

    @cached_property
    def sources(self) -> list[str]:
        """Returns the names of the sources that have rows here, or that name an id column."""
        pieces = schema.structs(self.manifest.column("pieces"), schema.PIECE)
        there = pc.unique(pieces.column("source")).to_pylist()
        return sorted({*there, *id_columns(self.identity.dataset_fields)})

    def shown(self) -> dict[str, str]:
        """Returns what tells this dataset from every other one, also from one made again under its path."""
        return {
            "name": self.name,
            "claim": self.claim,
            "dataset_digest": self.identity.dataset_digest,
            "manifest_digest": self.manifest_digest,
        }

    def shard(self, record: Mapping[str, Any], number: int, side: int, contents: bool) -> ShardToRead:
        """Returns the description of a shard for the process that reads it."""
        source = _source(record)
        return ShardToRead(
            self.root,
            self.options,
            Digests.of(self.identity),
            record["split_id"],
            record["rows"],
            self.columns,
            source,
            self.id_columns.get(source, OWN_ID),
            number,
            side,
            contents,
        )


@dataclass(frozen=True)
class Pair:
    """Two datasets whose rows can be compared: `new`, and `old`, since which it has changed."""

    new: Side
    old: Side

    def __post_init__(self) -> None:
        _refuse_same(self)
        _refuse_other_ids(self)
        _refuse_reserved(self)

    @cached_property
    def layout(self) -> ChangesLayout:
        return self.new.dataset.layout.changes(self.old.name)

    @cached_property
    def alike(self) -> bool:
        """Tells whether rows of both can be equal: same columns, and the same kind of vector."""
        same_model = self.new.identity.vector_digest == self.old.identity.vector_digest
        return same_model and self.new.columns.equals(self.old.columns)

    @cached_property
    def columns(self) -> pa.Schema:
        """Returns the columns of the changes: those of the new dataset, and the ids of both.

        All may be null, except what identifies a row.
        """
        wanted = {name for side in (self.new, self.old) for name in side.id_columns.values()}
        fields = {field.name: field for field in self.new.columns}
        for field in self.old.columns:
            if field.name in wanted:
                both = fields.get(field.name, field).type, field.type
                fields[field.name] = pa.field(field.name, schema.joined_type(*both))
        kept = (*PLACE, schema.CHUNK.names[0])
        optional = [each.with_nullable(each.name not in kept) for each in fields.values()]
        return pa.schema([pa.field(CHANGE, pa.string(), nullable=False), *optional])

    @property
    def deleted_columns(self) -> list[str]:
        """Returns the columns that a deleted row has: its id and its place in the old dataset."""
        ids = set(self.old.id_columns.values())
        kept = {*ids, *PLACE, schema.CHUNK.names[0]}
        return [name for name in self.columns.names if name in kept and name in self.old.columns.names]

    @cached_property
    def shards(self) -> list[ShardToRead]:
        """Returns the shards to read, numbered from 0: those that only one of the two has.

        If ids may be repeated, the ids of the shards that both have are read, too. If no shard differs,
        nothing is.
        """
        new, old, shared = self._divided
        sides = [(self.new, NEW, new), (self.old, OLD, old)]
        records = [(side, code, record) for side, code, found in sides for record in found]
        sources = {_source(record) for _, _, record in records}
        if not (self.new.proven and self.old.proven):
            named = id_columns(self.new.identity.dataset_fields)
            records += [
                (self.new, SHARED, each) for each in shared if _source(each) in sources & named.keys()
            ]
        return [
            side.shard(record, number, code, self.alike and code != SHARED)
            for number, (side, code, record) in enumerate(records)
        ]

    @property
    def shared(self) -> int:
        """Counts the shards that both have."""
        return len(self._divided[2])

    @cached_property
    def _divided(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """Returns the records of shards with rows: of the new, of the old, and of both."""
        new, old = (_with_rows(side.manifest) for side in (self.new, self.old))
        both = {_told(record) for record in new} & {_told(record) for record in old} if self.alike else set()
        return (
            [record for record in new if _told(record) not in both],
            [record for record in old if _told(record) not in both],
            [record for record in new if _told(record) in both],
        )


def _with_rows(manifest: pa.Table) -> list[dict[str, Any]]:
    wanted = manifest.filter(pc.greater(manifest.column("rows"), 0))
    return list(wanted.select([*SAME, "pieces"]).to_pylist())


def _told(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in SAME)


def _source(record: Mapping[str, Any]) -> str:
    return str(record["pieces"][0]["source"]) if record["pieces"] else ""


def _refuse_same(pair: Pair) -> None:
    if pair.new.root == pair.old.root:
        raise SeriesError("can't be compared with itself", pair.new.root, hint="name another with --since")
    if not is_dataset_name(pair.old.name):
        hint = "rename it: the changes since it lie in a folder of its name"
        raise SeriesError("has a name that can't be a folder's", pair.old.root, repr(pair.old.name), hint)


def _refuse_other_ids(pair: Pair) -> None:
    """Refuses two datasets whose rows have nothing in common that identifies them."""
    new, old = pair.new, pair.old
    where, hint = new.root, f"load it whole, instead of changes since {old.name}"
    for source in sorted(new.id_columns.keys() & old.id_columns.keys()):
        ours, theirs = new.id_columns[source], old.id_columns[source]
        if ours != theirs:
            got = f"source.{source}: {theirs} there, {ours} here"
            raise SeriesError("has another column of ids", where, got, hint)
    chunked = [schema.CHUNK.names[0] in side.columns.names for side in (new, old)]
    if chunked[0] != chunked[1]:
        got = f"{new.name if chunked[0] else old.name} alone has windows"
        raise SeriesError(
            "can't be compared: a row is a text in one and a window in the other", where, got, hint
        )


def _refuse_reserved(pair: Pair) -> None:
    for name in pair.new.columns.names:
        if name.lower() == CHANGE:
            hint = "carry it under another name, such as carry: {what: change}"
            raise SeriesError("carries a column that changes have themselves", pair.new.root, name, hint)


def refuse_another(found: Mapping[str, Any], pair: Pair) -> None:
    """Refuses changes since a dataset of the same name that was another one.

    Args:
        found: the content of `_since.json`.

    Raises:
        OtherDatasetError: they are of another pair.
    """
    if found != said(pair):
        hint = "remove this folder, and run again"
        where = pair.layout.root
        raise OtherDatasetError("are changes since an earlier dataset of this name", where, hint=hint)


def said(pair: Pair) -> dict[str, Any]:
    """Returns the content of `_since.json`: which two datasets were compared."""
    return {
        "format_version": schema.FORMAT_VERSION,
        "dataset": pair.new.shown(),
        "since": pair.old.shown(),
    }
