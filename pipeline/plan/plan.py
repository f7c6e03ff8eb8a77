"""The plan: the splits of a dataset as data, made before anything starts.

A plan is a table with a row per piece of every split (`schema.PLAN`). The first driver freezes it and every
later driver adopts it, so the plan holds everything that decides about rows, including the shards' columns.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from operator import attrgetter, itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import parsing, schema
from pipeline.humanize import plural
from pipeline.source.formats import Piece
from pipeline.storage.names import HIDDEN, MARKER, UNFINISHED

TABLE = ("table", "deleted_rows", "deleted")
"""The columns of a plan that only pieces of tables fill."""
PIECE = ("source", "file", "version", "size", "unit", "start", "stop", *TABLE)
_FIELDS = attrgetter(*PIECE)
Split = tuple[str, list[Piece]]
BLOCK_ROWS = 10_000
COLUMNS_KEY = b"pipeline.columns"
DIGEST_KEY = b"pipeline.dataset_digest"
PASSED_OVER_KEY = b"pipeline.passed_over"
SNAPSHOTS_KEY = b"pipeline.snapshots"
FIELD_IDS_KEY = b"pipeline.field_ids"
FieldIds = Mapping[tuple[str, ...], int]
"""The number of each field of the shards in Parquet, by its place (`dataset.field_ids`)."""
NOT_READ = {
    HIDDEN: "hidden name",
    MARKER: "folder marker",
    UNFINISHED: "unfinished copy",
}
"""The reasons for which a listing passes over a name, as people read them."""


@dataclass(frozen=True)
class Plan:
    """All pieces of all splits, and the id and carried columns that every shard has.

    Splits and scans are numbered from 0 in the order of the pieces. A scan is a group of splits that one task
    reads in one pass, because no split of it can be read without the rows before it.

    passed_over: how many names the listing of a source passed over, by source and reason (`storage.names`).
    snapshots: the version of each source that is a table.
    field_ids: the numbers of the shards' fields in Parquet, and of fields of earlier datasets; empty in plans
        of older versions.
    """

    pieces: pa.Table
    columns: pa.Schema
    dataset_digest: str
    passed_over: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    snapshots: Mapping[str, int] = field(default_factory=dict)
    field_ids: FieldIds = field(default_factory=dict)

    @cached_property
    def split_ids(self) -> pa.ChunkedArray:
        """Returns the ids of all splits in order; shape (splits,)."""
        return pc.drop_null(pc.unique(self.pieces.column("split_id")))

    @cached_property
    def failed_files(self) -> dict[str, str]:
        """Returns the files that could not be cut, with the reason."""
        failed = self.pieces.filter(pc.is_valid(self.pieces.column("error")))
        names = source_files(failed).to_pylist()
        return dict(zip(names, failed.column("error").to_pylist(), strict=True))

    @property
    def has_rows(self) -> bool:
        """Tells whether any split has a range of a file to read."""
        return bool(pc.any(pc.less(self.pieces.column("start"), self.pieces.column("stop"))).as_py())

    @property
    def empty_files(self) -> int:
        """Counts the files without rows; a failed file has no range."""
        return int(pc.sum(pc.equal(self.pieces.column("start"), self.pieces.column("stop"))).as_py() or 0)

    @property
    def not_read(self) -> str:
        """Says what the listings passed over, and how many files have no rows; empty if there is nothing."""
        reasons: Counter[str] = Counter()
        for counted in self.passed_over.values():
            reasons.update(counted)
        said = [plural(number, NOT_READ.get(reason, reason)) for reason, number in sorted(reasons.items())]
        return ", ".join(said + ([plural(self.empty_files, "empty file")] if self.empty_files else []))

    @property
    def stored_bytes(self) -> int:
        """Estimates the bytes that reading all splits takes from storage."""
        return int(schema.total(self.pieces, "stored_bytes"))

    def versions(self) -> dict[tuple[str, str], str]:
        """Returns the version of every planned file, by source and file."""
        files = self.pieces.select(["source", "file", "version"]).group_by(
            ["source", "file"], use_threads=False
        )
        columns = files.aggregate([("version", "first")]).columns
        return {
            (source, file): version
            for source, file, version in zip(*(each.to_pylist() for each in columns), strict=True)
        }

    def piece(self, source: str, file: str, position: int) -> Piece | None:
        """Returns the piece that holds a row of a file."""
        column = self.pieces.column
        here = pc.and_(pc.equal(column("source"), source), pc.equal(column("file"), file))
        inside = pc.and_(pc.less_equal(column("start"), position), pc.greater(column("stop"), position))
        rows = self.pieces.filter(pc.and_(here, inside).fill_null(False)).to_pylist()
        return piece_of(rows[0]) if rows else None

    def first_of(self, source: str) -> Piece | None:
        """Returns the first piece of a source."""
        at = pc.index(self.pieces.column("source"), source).as_py()
        return piece_of(self.pieces.slice(at, 1).to_pylist()[0]) if at >= 0 else None

    def pending(self, present: Iterable[str]) -> "Plan":
        """Returns the part of the plan whose shards do not exist yet."""
        missing = pc.invert(pc.is_in(self.pieces.column("split_id"), pa.array(list(present), pa.string())))
        wanted = pc.and_(missing, pc.is_valid(self.pieces.column("split_id")))
        return replace(self, pieces=self.pieces.filter(wanted))

    def splits(self) -> Iterator[Split]:
        """Yields split ids with their pieces, in order."""
        return (split for scan in self.scans() for split in scan)

    def scans(self) -> Iterator[list[Split]]:
        """Yields the splits of each scan, in order."""
        rows = (
            row for batch in self.pieces.to_batches(max_chunksize=BLOCK_ROWS) for row in batch.to_pylist()
        )
        planned = (row for row in rows if row["split_id"] is not None)
        for _, scan in itertools.groupby(planned, itemgetter("scan")):
            yield [
                (split_id, [piece_of(row) for row in split])
                for split_id, split in itertools.groupby(scan, itemgetter("split_id"))
            ]

    def to_bytes(self) -> bytes:
        """Writes the plan as the bytes of plan.parquet."""
        metadata = {
            COLUMNS_KEY: self.columns.serialize().to_pybytes().hex(),
            DIGEST_KEY: self.dataset_digest,
            PASSED_OVER_KEY: json.dumps(self.passed_over),
            SNAPSHOTS_KEY: json.dumps(self.snapshots),
            FIELD_IDS_KEY: json.dumps([[list(place), number] for place, number in self.field_ids.items()]),
        }
        sink = pa.BufferOutputStream()
        pq.write_table(self.pieces.replace_schema_metadata(metadata), sink, compression="zstd")
        return bytes(sink.getvalue())

    @staticmethod
    def from_bytes(data: bytes, where: str = "plan.parquet") -> "Plan":
        """Reads a plan from the bytes of plan.parquet.

        Raises:
            DamagedError: the bytes are not a plan.
        """
        parquet = parsing.opened(data, where)
        known = [
            each for each in schema.PLAN if each.name not in TABLE or each.name in parquet.schema_arrow.names
        ]
        pieces = parsing.columns(parquet, pa.schema(known), where)
        with parsing.damage(where):
            for each in schema.PLAN:  # older plans lack the columns of tables
                if each.name not in pieces.column_names:
                    pieces = pieces.append_column(each, pa.nulls(len(pieces), each.type))
            told = parquet.metadata.metadata
            columns, field_ids = columns_told(told)
            passed_over = _counts(json.loads(told.get(PASSED_OVER_KEY, b"{}")))  # older plans lack it
            snapshots = json.loads(told.get(SNAPSHOTS_KEY, b"{}"))
            snapshots = {str(source): int(version) for source, version in snapshots.items()}
            return Plan(pieces, columns, told[DIGEST_KEY].decode(), passed_over, snapshots, field_ids)


def columns_told(metadata: Mapping[bytes, bytes]) -> tuple[pa.Schema, FieldIds]:
    """Returns the columns and the field ids that the footer of a plan tells.

    Raises:
        KeyError, TypeError, ValueError, ArrowException: it is not the footer of a plan.
        DamagedError: a column is of an extension type.
    """
    columns = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(metadata[COLUMNS_KEY].decode())))
    parsing.refuse_extensions(columns)
    told = json.loads(metadata.get(FIELD_IDS_KEY, b"[]"))  # older plans lack it
    return columns, {tuple(map(str, place)): int(number) for place, number in told}


def _counts(content: Any) -> dict[str, dict[str, int]]:
    """Takes counts by source and reason from JSON.

    Raises:
        TypeError, ValueError, AttributeError: it is something else.
    """
    return {
        str(source): {str(reason): int(number) for reason, number in reasons.items()}
        for source, reasons in content.items()
    }


def extent(pieces: pa.Table) -> int:
    """Returns the total rows or bytes of pieces that all have the same unit."""
    return int(pc.sum(pc.subtract(pieces.column("stop"), pieces.column("start"))).as_py() or 0)


def planned_rows(pieces: pa.Table) -> pa.ChunkedArray:
    """Returns the rows of each piece that is cut by rows, without those that its table has deleted."""
    whole = pc.subtract(pieces.column("stop"), pieces.column("start"))
    if "deleted_rows" not in pieces.column_names:
        return whole
    return pc.subtract(whole, pieces.column("deleted_rows").fill_null(0))


def piece_of(row: Mapping[str, Any]) -> Piece:
    """Makes a piece from a row of a plan."""
    return Piece(**{name: row[name] for name in PIECE if row[name] is not None})


def source_files(pieces: pa.Table) -> pa.ChunkedArray:
    """Returns `<source>/<file>` for each row of a table that has both columns."""
    return pc.binary_join_element_wise(pieces.column("source"), pieces.column("file"), "/")


def split_id(dataset_digest: str, pieces: Sequence[Piece]) -> str:
    """Returns 20 hex digits that name a split: they depend on dataset, files, versions and ranges."""
    content = [
        [piece.source, piece.file, piece.version, piece.unit, piece.start, piece.stop] for piece in pieces
    ]
    return blake2b(json.dumps([dataset_digest, content]).encode(), digest_size=10).hexdigest()
