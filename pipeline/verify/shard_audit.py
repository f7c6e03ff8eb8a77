"""Checks one shard: reads it completely, compares it with plan and records, and returns findings.

Never raises for damage: whatever a library raises for a file's bytes becomes a finding that names the file.
Failures of storage pass through. Cost: the shard, compressed and not, in memory; the result is small, however
much is wrong.

Shapes: N rows, K rejects, M rows of either, D dimensions.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import parsing, schema
from pipeline.config.location import Options
from pipeline.dataset import writer
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.expected import Expected
from pipeline.dataset.identifiers import NO_IDS, Ids, ids_of
from pipeline.dataset.record import ShardRecord
from pipeline.errors import DamagedError, MissingError, OtherDatasetError, StorageError
from pipeline.model import outputs
from pipeline.model.outputs import embedding
from pipeline.parsing import brief
from pipeline.ragged import Ints
from pipeline.source.formats import Piece
from pipeline.storage import ObjectInfo
from pipeline.verify import classification_audit
from pipeline.verify.problems import Problem, some

NORM_SLACK = 1e-3
"""How far from 1 the length of a normalized vector may be; bfloat16 is rounded before it is scaled."""
COUNTED = ("split_id", "rows", "rejects", "tokens", "truncated", "pieces")
"""The fields of a record that can be computed from a shard's rows and rejects."""
HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: the check that found it, the file of the dataset, and what is wrong."""

    check: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.check}: {self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard to audit: its place, what was planned for it, and its row of the manifest, if there is one.

    id_column: the column that identifies its rows; None if their source names none.
    """

    root: str
    options: Options
    split_id: str
    pieces: Sequence[Piece]
    recorded: Mapping[str, Any] | None
    expected: Expected
    id_column: str | None = None


@dataclass(frozen=True, slots=True)
class ShardAudit:
    """The findings about a shard, and its actual contents by the names of a record; None if unreadable."""

    split_id: str
    findings: tuple[Finding, ...]
    contents: Mapping[str, Any] | None = None
    ids: Ids = NO_IDS


def audit_shard(shard: Shard) -> ShardAudit:
    """Reads and checks one shard and its rejects.

    Raises:
        StorageError: storage failed.
    """
    dataset = Dataset(shard.root, shard.options)
    path = dataset.layout.shard(shard.split_id)
    contents: Mapping[str, Any] | None = None
    ids = NO_IDS
    try:
        troubles, contents, ids = _audit(dataset, shard, dataset.storage.read(path))
    except MissingError:
        troubles = [("shards", "is gone since it was listed")]
    except DamagedError as error:
        troubles = [("checksums", f"can't be read: {brief(error)}")]
    except StorageError:
        raise
    except Exception as error:  # the boundary: damaged bytes make Arrow, NumPy and JSON raise anything
        troubles = [("checksums", f"can't be read: {brief(error)}")]
    findings = tuple(Finding(check, dataset.layout.name(path), what) for check, what in troubles)
    return ShardAudit(shard.split_id, findings, contents, ids)


def _audit(
    dataset: Dataset, shard: Shard, data: bytes
) -> tuple[list[Problem], Mapping[str, Any] | None, Ids]:
    path, wanted = dataset.layout.shard(shard.split_id), shard.expected.columns
    parquet = parsing.opened(data, path, page_checksum_verification=True)
    if not parquet.schema_arrow.equals(wanted, check_metadata=False):
        # The other checks need these columns.
        return [("schema", parsing.difference(parquet.schema_arrow, wanted))], None, NO_IDS
    rows = parquet.read().combine_chunks()  # once, or each check would copy all vectors
    rows.validate(full=True)
    footer, troubles = _footer(dataset, shard, rows)
    record = footer or shard.recorded or {}
    rejects, more = _rejects(dataset, shard.split_id, record)
    troubles += more
    ranges = _ranges(shard.pieces, record)
    documents = rows.filter(pc.equal(rows["chunk"], 0)) if "chunk" in rows.column_names else rows
    contents = {
        "split_id": shard.split_id,
        "rows": rows.num_rows,
        "rejects": rejects.num_rows,
        "tokens": schema.total(rows, "n_tokens"),
        "truncated": schema.total(rows, "truncated"),
        "file_bytes": len(data),
        "content_digest": writer.content_digest(rows, shard.expected.outputs.names),
        "pieces": _counted(ranges, documents, rejects),
    }
    troubles += _records(contents, footer, shard.recorded)
    troubles += _duplicates(rows, rejects, ranges)
    troubles += _vectors(rows, shard.expected) if "embedding" in shard.expected.outputs.names else ()
    troubles += classification_audit.labels(rows, shard.expected.outputs)
    troubles += classification_audit.scores(rows, shard.expected.outputs)
    for wrong_N, what in outputs.faults(rows, shard.expected.outputs):
        troubles += some("outputs", wrong_N, rows, what)
    troubles += _others(rows, shard.expected)
    return troubles, contents, ids_of(rows, shard.pieces[0].source, shard.id_column)


def _footer(dataset: Dataset, shard: Shard, rows: pa.Table) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Reads the record in the shard's footer."""
    info = ObjectInfo(dataset.layout.shard(shard.split_id), 0, "")
    try:
        return asdict(ShardRecord.from_footer(rows.schema.metadata, info)), []
    except (OtherDatasetError, DamagedError):
        return None, [("manifest", "its footer has no record of ours")]


def _rejects(dataset: Dataset, split_id: str, record: Mapping[str, Any]) -> tuple[pa.Table, list[Problem]]:
    """Reads the rejects that a shard's record names; returns none if they can't be read."""
    name, count = record.get("rejects_file"), record.get("rejects", 0)
    none = schema.REJECTS.empty_table()
    if name is None:
        return none, [
            ("rejects", f"{count} rows were rejected, but no file of them is named")
        ] if count else []
    try:
        data = dataset.storage.read(dataset.layout.rejects_file(name))
        file = parsing.opened(data, name, page_checksum_verification=True)
        if not file.schema_arrow.equals(schema.REJECTS, check_metadata=False):
            what = parsing.difference(file.schema_arrow, schema.REJECTS)
            return none, [("rejects", f"rejects/{name}: {what}")]
        found = file.read()
    except MissingError:
        return none, [("rejects", f"rejects/{name} is missing")]
    except OtherDatasetError as error:
        return none, [("rejects", error.finding)]
    except (DamagedError, pa.ArrowException, OSError, ValueError, TypeError) as error:
        return none, [("rejects", f"rejects/{name} can't be read: {brief(error)}")]
    troubles = []
    if dataset.layout.rejects(split_id, blake2b(data, digest_size=8).hexdigest()).rsplit("/", 1)[-1] != name:
        troubles.append(("rejects", f"rejects/{name} does not match the digest in its name"))
    if found.num_rows != count:
        troubles.append(("rejects", f"rejects/{name} has {found.num_rows} rows, its shard's record {count}"))
    nameless_K = pc.equal(pc.utf8_length(found["reason"]), 0)
    troubles += some("rejects", nameless_K.to_numpy(), found, "were rejected without a reason")
    return found, troubles


def _ranges(pieces: Sequence[Piece], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the range of each piece: as planned, or for bytes as consumed, which ends at ends of lines.

    Only the record has the consumed bytes. They must cover the file without gap or overlap (`reconcile`), so
    a record can't hide rows that were lost or doubled at a border.
    """
    told = record.get("pieces") or ()
    consumed = {(piece["source"], piece["file"], index): piece for index, piece in enumerate(told)}
    ranges = []
    for index, piece in enumerate(pieces):
        place = dict(consumed.get((piece.source, piece.file, index)) or {})
        place |= {"source": piece.source, "file": piece.file}
        if piece.unit != "bytes" or "start" not in place:
            place |= {"start": piece.start, "stop": piece.stop}
        # The lines that start in the planned range: no other split may own them.
        first, last = max(piece.start, place["start"]), min(piece.stop, place["stop"])
        ranges.append(place | {"first": first, "last": last})
    return ranges


def range_of(rows: pa.Table, ranges: Sequence[Mapping[str, Any]]) -> Ints:
    """Returns (M,) the range that each row of a shard, or of its rejects, lies in; -1 if it lies in none.

    Ranges have `source`, `file`, and own the rows from `first` to before `last`.
    """
    files = [f"{place['source']}/{place['file']}" for place in ranges]
    names = pa.array(list(dict.fromkeys(files)), pa.string())
    file_R = pc.index_in(pa.array(files, pa.string()), names).to_numpy()
    file_M = pc.index_in(rows["source_file"].combine_chunks(), names).fill_null(-1).to_numpy()
    first_R, last_R = (np.array([place[name] for place in ranges], np.int64) for name in ("first", "last"))
    row_M = rows["source_row"].to_numpy()
    # Sorts ranges and rows together, a range before a row with the same start, so that its rows follow it.
    is_row = np.repeat([0, 1], [len(files), len(row_M)])
    order = np.lexsort((is_row, np.r_[first_R, row_M], np.r_[file_R, file_M]))
    before = np.maximum.accumulate(np.where(is_row[order] == 0, np.arange(len(order)), -1))
    latest = np.empty(len(order), np.int64)
    latest[order] = np.where(before >= 0, order[before], -1)
    range_M = latest[len(files) :]
    inside = (range_M >= 0) & (file_M >= 0)
    inside[inside] = (file_R[range_M[inside]] == file_M[inside]) & (row_M[inside] < last_R[range_M[inside]])
    return np.where(inside, range_M, -1)


def _counted(
    ranges: Sequence[Mapping[str, Any]], documents: pa.Table, rejects: pa.Table
) -> list[dict[str, Any]]:
    """Returns the ranges in the form of a record (`schema.PIECE`), with the actual counts of rows."""
    counts = {}
    for name, table in (("rows", documents), ("rejects", rejects)):
        range_M = range_of(table, ranges)
        counts[name] = np.bincount(range_M[range_M >= 0], minlength=len(ranges)).tolist()
    return [
        {name: value for name, value in place.items() if name not in ("first", "last")}
        | {name: counts[name][index] for name in counts}
        for index, place in enumerate(ranges)
    ]


def _records(
    contents: Mapping[str, Any], footer: Mapping[str, Any] | None, manifest: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Compares what footer and manifest say about the shard with what it holds."""
    for teller, record in (("its footer", footer), ("manifest.parquet", manifest)):
        if record is None:
            continue
        for name in COUNTED if record is footer else (*COUNTED, "file_bytes"):
            if record[name] != contents[name]:
                told, held = _unlike(record[name], contents[name])
                yield "manifest", f"{teller} says {name} {told}, the shard has {held}"
        if record["content_digest"] != contents["content_digest"]:
            yield "checksums", f"its vectors, places and hashes do not have the digest that {teller} says"
    if footer and manifest and footer["rejects_file"] != manifest["rejects_file"]:
        yield "manifest", "manifest.parquet and its footer name different files of rejects"


def _unlike(told: Any, held: Any) -> tuple[Any, Any]:
    """Returns two values that differ; for two lists of pieces, the first pieces that differ."""
    if not isinstance(held, list):
        return told, held
    if len(told) != len(held):
        return len(told), len(held)
    return next(
        (_piece(ours), _piece(theirs)) for ours, theirs in zip(told, held, strict=True) if ours != theirs
    )


def _piece(piece: Mapping[str, Any]) -> str:
    return "{source}/{file} [{start}, {stop}) with {rows} rows and {rejects} rejects".format_map(piece)


def _duplicates(rows: pa.Table, rejects: pa.Table, ranges: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """Checks that each row exists once, and lies in the split's own ranges.

    Ranges of different splits do not overlap (`verify` checks the plan), and every row lies in a range of its
    own split. So a row that exists once in its shard exists once in the dataset.
    """
    place = ["source_file", "source_row"]
    key = [*place, "chunk"] if "chunk" in rows.column_names else place
    yield from _doubled(rows, key, "there more than once")
    yield from _doubled(rejects, place, "rejected more than once")
    for table, what in ((rows, "lie"), (rejects, "were rejected")):
        yield from some("duplicates", range_of(table, ranges) < 0, table, f"{what} outside their split")
    both = rejects.select(place).join(rows.select(place), place, join_type="left semi")
    yield from some("duplicates", np.ones(len(both), np.bool_), both, "are both embedded and rejected")
    if "chunk" in key:
        figures = [("chunk", name) for name in ("min", "max", "count_distinct")]
        windows = rows.select(key).group_by(place).aggregate(figures)
        least, most, count = (windows[f"chunk_{name}"].to_numpy() for _, name in figures)
        broken = (least != 0) | (most != count - 1)
        yield from some("duplicates", broken, windows, "lack some of their windows")


def _doubled(rows: pa.Table, key: list[str], what: str) -> Iterator[Problem]:
    counts = rows.select(key).group_by(key).aggregate([([], "count_all")])
    yield from some("duplicates", pc.greater(counts["count_all"], 1).to_numpy(), counts, f"are {what}")


def _vectors(rows: pa.Table, expected: Expected) -> Iterator[Problem]:
    """Checks that vectors are finite, and of length 1 if they should be."""
    dimension = expected.outputs.dimension
    if expected.outputs.vector == "binary":
        width = math.ceil(dimension / 8)
        other_N = pc.not_equal(pc.binary_length(rows["embedding"]), width).to_numpy()
        yield from some("vectors", other_N, rows, f"have vectors that are not of {width} bytes")
        return
    if not expected.outputs.fixed_lists:
        other_N = pc.not_equal(pc.list_value_length(rows["embedding"]), dimension).to_numpy()
        if other_N.any():  # then they do not form a matrix
            yield from some("vectors", other_N, rows, f"have vectors that are not of {dimension} numbers")
            return
    vectors_ND = embedding.load(rows, dimension)
    finite_N = np.asarray(np.isfinite(vectors_ND).all(axis=1))
    yield from some("vectors", ~finite_N, rows, "hold NaN or infinity")
    if expected.normalized:
        length_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))  # norm() would copy them
        wrong_N = finite_N & (np.abs(length_N - 1) > NORM_SLACK + quantization(rows, dimension))
        example = f" ({length_N[wrong_N][0]:.4g})" if wrong_N.any() else ""
        yield from some("vectors", wrong_N, rows, f"have vectors that are not of length 1{example}")


def quantization(rows: pa.Table, dimension: int) -> npt.NDArray[np.float32]:
    """Returns (N,) how far storing as int8 can have moved each vector: each value by half a scale; else 0."""
    if "embedding_scale" not in rows.column_names:
        return np.zeros(rows.num_rows, np.float32)
    scale_N: npt.NDArray[np.float32] = rows["embedding_scale"].to_numpy()
    return scale_N * np.float32(math.sqrt(dimension) / 2)


def _others(rows: pa.Table, expected: Expected) -> Iterator[Problem]:
    """Checks our other columns for values that no text can have."""
    tokens_N = rows["n_tokens"].to_numpy()
    most = expected.max_tokens or np.iinfo(np.int32).max
    within = f"1 to {most}" if expected.max_tokens else "1 or more"
    wrong_N = (tokens_N < 1) | (tokens_N > most)
    yield from some("vectors", wrong_N, rows, f"have an n_tokens that is not {within}")
    wrong_N = pc.not_equal(pc.binary_length(rows["text_hash"]), HASH_BYTES).to_numpy()
    yield from some("vectors", wrong_N, rows, f"have a text_hash that is not of {HASH_BYTES} bytes")
    if "chunk" in rows.column_names:
        start_N, stop_N = rows["char_start"].to_numpy(), rows["char_stop"].to_numpy()
        empty_N: npt.NDArray[np.bool_] = (start_N < 0) | (start_N >= stop_N)
        yield from some("vectors", empty_N, rows, "are windows without a character")
