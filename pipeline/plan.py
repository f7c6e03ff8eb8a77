"""Sources and config become splits: data, made before anything starts.

A plan is a table with a row per piece of every split (`schema.PLAN`). It is frozen by the first driver and
adopted by every later one, so whatever decides about rows, among it the shards' columns, stands in it.
"""

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import ceil
from operator import attrgetter, itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import parsing, schema, storage, surveying, telemetry
from pipeline.checkpoint import Checkpoint
from pipeline.config import Config
from pipeline.errors import ConfigError, SourceError
from pipeline.formats import Piece, Span, Survey, file_name
from pipeline.recipe import Recipe
from pipeline.sources import Source
from pipeline.surveying import Listed, Surveyed

GPU_SPLIT_BYTES = 64 << 20
SECONDS_PER_CPU_SPLIT = 60
CPU_FLOPS = 1e11
"""Matrix work per second that two ordinary cores do in float32: sizes splits, and makes a guess of costs."""
BYTES_PER_TOKEN = 4
BYTES_PER_LINE = 32
MOST_EXPANDED = 10
"""How many times its stored bytes a text is at most, about, once it is read: for estimates of memory."""
PIECE = ("source", "file", "version", "size", "unit", "start", "stop")
_FIELDS = attrgetter(*PIECE)
Split = tuple[str, list[Piece]]
BLOCK_ROWS = 10_000
GROUP_FILL = 0.5
"""How full a split of small files is on average, of what it may hold."""
COLUMNS_KEY = b"pipeline.columns"
DIGEST_KEY = b"pipeline.dataset_digest"


@dataclass(frozen=True)
class Plan:
    """All pieces of all splits, and the id and carried columns that every shard has.

    Splits are numbered from 0 in the order of the pieces, and so are scans: splits that one task reads in one
    pass, since none of them could be read without the rows before it.
    """

    pieces: pa.Table
    columns: pa.Schema
    dataset_digest: str

    @cached_property
    def split_ids(self) -> pa.ChunkedArray:
        """(splits,) ids in order."""
        return pc.drop_null(pc.unique(self.pieces.column("split_id")))

    @cached_property
    def failed_files(self) -> dict[str, str]:
        """Files that could not be cut, with the reason."""
        failed = self.pieces.filter(pc.is_valid(self.pieces.column("error")))
        names = source_files(failed).to_pylist()
        return dict(zip(names, failed.column("error").to_pylist(), strict=True))

    @property
    def stored_bytes(self) -> int:
        """What reading all splits should take from storage."""
        return int(schema.total(self.pieces, "stored_bytes"))

    def versions(self) -> dict[tuple[str, str], str]:
        """The version of every planned file, by source and file."""
        files = self.pieces.select(["source", "file", "version"]).group_by(
            ["source", "file"], use_threads=False
        )
        columns = files.aggregate([("version", "first")]).columns
        return {
            (source, file): version
            for source, file, version in zip(*(each.to_pylist() for each in columns), strict=True)
        }

    def piece(self, source: str, file: str, position: int) -> Piece | None:
        """The piece that holds a row of a file."""
        column = self.pieces.column
        here = pc.and_(pc.equal(column("source"), source), pc.equal(column("file"), file))
        inside = pc.and_(pc.less_equal(column("start"), position), pc.greater(column("stop"), position))
        rows = self.pieces.filter(pc.and_(here, inside).fill_null(False)).to_pylist()
        return piece_of(rows[0]) if rows else None

    def first_of(self, source: str) -> Piece | None:
        """The first piece that is of a source."""
        at = pc.index(self.pieces.column("source"), source).as_py()
        return piece_of(self.pieces.slice(at, 1).to_pylist()[0]) if at >= 0 else None

    def pending(self, present: Iterable[str]) -> "Plan":
        """The part of the plan whose shards are not there yet."""
        missing = pc.invert(pc.is_in(self.pieces.column("split_id"), pa.array(list(present), pa.string())))
        wanted = pc.and_(missing, pc.is_valid(self.pieces.column("split_id")))
        return Plan(self.pieces.filter(wanted), self.columns, self.dataset_digest)

    def splits(self) -> Iterator[Split]:
        """Split ids with their pieces, in order."""
        return (split for scan in self.scans() for split in scan)

    def scans(self) -> Iterator[list[Split]]:
        """Splits in order, those of one scan together."""
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
        """As plan.parquet."""
        metadata = {
            COLUMNS_KEY: self.columns.serialize().to_pybytes().hex(),
            DIGEST_KEY: self.dataset_digest,
        }
        sink = pa.BufferOutputStream()
        pq.write_table(self.pieces.replace_schema_metadata(metadata), sink, compression="zstd")
        return bytes(sink.getvalue())

    @staticmethod
    def from_bytes(data: bytes, where: str = "plan.parquet") -> "Plan":
        """From plan.parquet.

        Raises:
            DamagedError: it is none.
        """
        parquet = parsing.opened(pa.BufferReader(data), where)
        pieces = parsing.columns(parquet, schema.PLAN, where)
        with parsing.damage(where):
            told = parquet.metadata.metadata
            columns = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(told[COLUMNS_KEY].decode())))
            parsing.refuse_extensions(columns)
            return Plan(pieces, columns, told[DIGEST_KEY].decode())


def extent(pieces: pa.Table) -> int:
    """Rows or bytes of pieces that are all cut by the same."""
    return int(pc.sum(pc.subtract(pieces.column("stop"), pieces.column("start"))).as_py() or 0)


def piece_of(row: Mapping[str, Any]) -> Piece:
    """The piece of a row of a plan."""
    return Piece(*(row[name] for name in PIECE))


def make(config: Config, checkpoint: Checkpoint, dataset_digest: str) -> Plan:
    """List the sources, survey their files, cut them into splits.

    A file that can't be cut stands in the plan with its error.

    Raises:
        ConfigError: a source names nothing, or none of its files has the columns that the config names.
        StorageError: storage failed.
    """
    listed = listing(config)
    telemetry.event("planning", files=len(listed))
    surveyed = surveying.survey(listed, config.source)
    _refuse_failing_sources(config, listed, surveyed)
    columns, surveyed = _unify(surveyed, config)
    _refuse_failing_sources(config, listed, surveyed)
    caps = config.output.rows_per_shard, split_bytes(config, checkpoint)
    rows = _rows(listed, surveyed, config, dataset_digest, caps)
    return Plan(_table(rows), columns, dataset_digest)


def _table(rows: Iterator[dict[str, Any]]) -> pa.Table:
    """Rows of a plan, a few at a time as Python's objects: of a million they would fill gigabytes."""
    blocks = iter(lambda: list(itertools.islice(rows, BLOCK_ROWS)), [])
    tables = [pa.Table.from_pylist(block, schema=schema.PLAN) for block in blocks]
    return pa.concat_tables([schema.PLAN.empty_table(), *tables])


def listing(config: Config) -> list[Listed]:
    """Every object of every source, with the source's name; in a stable order.

    Raises:
        MissingError: a source names nothing.
    """
    return [
        (name, info)
        for name, source in config.source.items()
        for info in storage.connect(source.path, source.options).find(source.path)
    ]


def current_versions(config: Config, planned: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """What `Plan.versions` would be if the sources were planned now.

    Args:
        planned: those of a plan; each that stands is given in the plan's words.

    Raises:
        MissingError: a source names nothing.
    """
    now = {}
    for name, info in listing(config):
        source = config.source[name]
        key = name, file_name(source, info)
        before = planned.get(key, info.version)
        same = storage.connect(source.path, source.options).same(before, info.version)
        now[key] = before if same else info.version
    return now


def source_files(pieces: pa.Table) -> pa.ChunkedArray:
    """`<source>/<file>` of each row of a table that has both."""
    return pc.binary_join_element_wise(pieces.column("source"), pieces.column("file"), "/")


def split_bytes(config: Config, checkpoint: Checkpoint) -> int:
    """The most bytes of text in a split: the config's, else what keeps its device busy for a good while.

    Where a text becomes a row for each window, no more than about `rows_per_shard` windows have.
    """
    recipe = Recipe.of(checkpoint, config.model)
    window = (recipe.max_tokens - recipe.chunk_overlap) * BYTES_PER_TOKEN
    most = config.output.rows_per_shard * window if recipe.chunked else GPU_SPLIT_BYTES
    return min(most, config.output.max_split_bytes or _busy_bytes(config, checkpoint))


def payload_bytes(pending: Plan, config: Config, checkpoint: Checkpoint) -> int:
    """About what the largest split weighs between two stages: its vectors, its rows and its tokens."""
    recipe, pieces = Recipe.of(checkpoint, config.model), pending.pieces
    stored = _most_of_a_split(pieces, pieces.column("stored_bytes"))
    text = min(split_bytes(config, checkpoint), MOST_EXPANDED * stored)
    by_rows = pieces.filter(pc.equal(pieces.column("unit"), "rows").fill_null(False))
    rows = _most_of_a_split(by_rows, pc.subtract(by_rows.column("stop"), by_rows.column("start")))
    if by_rows.num_rows < pieces.num_rows:
        rows = max(rows, text // BYTES_PER_LINE)
    most = config.output.rows_per_shard
    rows = min(most, text // BYTES_PER_LINE) if recipe.chunked else min(most, rows)
    return rows * 4 * recipe.dimension(checkpoint) + 2 * text


def _most_of_a_split(pieces: pa.Table, values: pa.ChunkedArray) -> int:
    """The greatest sum of values over the pieces of a split."""
    sums = pa.table({"split": pieces.column("split"), "value": values}).group_by("split")
    return int(pc.max(sums.aggregate([("value", "sum")]).column("value_sum")).as_py() or 0)


def _busy_bytes(config: Config, checkpoint: Checkpoint) -> int:
    if config.compute.device == "cuda":
        return GPU_SPLIT_BYTES
    tokens = SECONDS_PER_CPU_SPLIT * CPU_FLOPS / checkpoint.flops_per_token
    return int(min(max(tokens * BYTES_PER_TOKEN, 1 << 16), GPU_SPLIT_BYTES))


@dataclass(frozen=True, slots=True)
class Range:
    """What one split takes of a file: a stretch of it, and the part of the split's caps that it fills.

    span: where the span starts that it is a part of; None where it is one or several whole ones.
    """

    start: int
    stop: int
    weight: float
    stored_bytes: float
    span: int | None = None


def cut(spans: Sequence[Span], max_rows: int, max_bytes: float) -> Iterator[Range]:
    """Ranges that tile the spans, none above the caps (as far as the spans know their rows and bytes).

    Small spans are joined; a large one is cut into equal parts.
    """

    def weight(span: Span) -> float:
        return max(span.rows / max_rows, span.text_bytes / max_bytes)

    run: Span | None = None
    for span in spans:
        if run is not None:
            joined = Span(
                run.start,
                span.stop,
                run.rows + span.rows,
                run.text_bytes + span.text_bytes,
                run.stored_bytes + span.stored_bytes,
            )
            if weight(joined) <= 1:
                run = joined
                continue
            yield Range(run.start, run.stop, weight(run), run.stored_bytes)
        run = None
        parts = min(span.stop - span.start, ceil(weight(span)))
        if parts <= 1:
            run = span
            continue
        size = span.stop - span.start
        edges = (span.start + size * part // parts for part in range(parts + 1))
        for start, stop in itertools.pairwise(edges):
            yield Range(start, stop, weight(span) / parts, span.stored_bytes / parts, span.start)
    if run is not None:
        yield Range(run.start, run.stop, weight(run), run.stored_bytes)


def _refuse_failing_sources(config: Config, listed: list[Listed], surveyed: list[Surveyed]) -> None:
    for name, source in config.source.items():
        owned = [found for (owner, _), found in zip(listed, surveyed, strict=True) if owner == name]
        _refuse_if_all_fail(name, source, owned)


def _refuse_if_all_fail(name: str, source: Source, found: list[Surveyed]) -> None:
    """What is wrong with every file is wrong with the config."""
    errors = [survey for survey in found if isinstance(survey, SourceError)]
    if len(errors) == len(found):
        first = errors[0]
        raise ConfigError(
            f"none of its {len(found)} files can be embedded",
            f"source.{name}",
            f"{source.path}: {first.finding}",
            first.hint or "check path, format and columns of this source",
        )
    surveys = [survey for survey in found if isinstance(survey, Survey)]
    for column in source.columns:
        if not any(column in survey.columns.names for survey in surveys):
            raise ConfigError(
                f"column {column!r} is in none of its files",
                f"source.{name}",
                source.path,
                hint="check its name",
            )


def _unify(surveyed: list[Surveyed], config: Config) -> tuple[pa.Schema, list[Surveyed]]:
    """One schema for all shards; a file whose types can't join it becomes a failed one."""
    names = list(dict.fromkeys(name for source in config.source.values() for name in source.columns))
    ours = any(source.id_column is None for source in config.source.values())
    names = ["id", *names] if ours else names
    _refuse_collisions(names)
    columns = pa.schema([pa.field("id", pa.string())] if ours else [])
    kept: list[Surveyed] = []
    exact = {
        name
        for each in surveyed
        if isinstance(each, Survey) and not each.loose
        for name in each.columns.names
    }
    for survey in surveyed:
        if isinstance(survey, Survey):
            try:
                columns = _joined(columns, survey.columns, exact)
            except pa.ArrowException as error:
                kept.append(
                    SourceError(
                        "its columns do not fit the files before it",
                        got=str(error),
                        hint="give the columns the same types, or make it a source of another job",
                    )
                )
                continue
        kept.append(survey)
    fields = [columns.field(name) for name in names]
    return pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in fields]), kept


def _joined(columns: pa.Schema, more: pa.Schema, exact: Collection[str]) -> pa.Schema:
    """One schema of both.

    Args:
        exact: columns whose types some file's own schema says. The others' are those that samples show, and
            where two differ both are text.

    Raises:
        ArrowException: two types do not fit.
    """
    joined = []
    for field in more:
        at = columns.get_field_index(field.name)
        try:
            both = [pa.schema([each]) for each in ([columns.field(at)] if at >= 0 else []) + [field]]
            joined.append(pa.unify_schemas(both, promote_options="permissive").field(0))
        except pa.ArrowException:
            if field.name in exact:
                raise
            joined.append(pa.field(field.name, pa.string()))
    names = set(more.names)
    return pa.schema([field for field in columns if field.name not in names] + joined)


def _refuse_collisions(names: Sequence[str]) -> None:
    seen = {name.lower(): name for name in schema.reserved_names()}
    for name in names:
        if name.lower() in seen:
            raise ConfigError(
                "two columns of the shards would have one name (case does not count)",
                got=f"{name!r} and {seen[name.lower()]!r}",
                hint="rename it in the source, or do not carry it",
            )
        seen[name.lower()] = name


def _rows(
    listed: Sequence[Listed],
    surveyed: Sequence[Surveyed],
    config: Config,
    dataset_digest: str,
    caps: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    """The rows of a plan: those of files without splits, then the pieces of every split."""
    files = []
    for (name, info), survey in zip(listed, surveyed, strict=True):
        file = file_name(config.source[name], info)
        row = {"source": name, "file": file, "version": info.version, "size": info.size}
        if isinstance(survey, SourceError):
            yield row | {"error": str(survey)}
        elif survey.spans:
            files.append((row, survey))
        else:
            yield row | {"unit": survey.unit, "start": 0, "stop": 0}
    scan, last = -1, None
    for number, (key, split) in enumerate(_splits(files, caps)):
        scan, last = scan + (key is None or key != last), key
        ids = {"split": number, "split_id": split_id(dataset_digest, [piece for piece, _ in split])}
        for piece, part in split:
            fields = dict(zip(PIECE, _FIELDS(piece), strict=True))
            yield ids | {"scan": scan, **fields, "stored_bytes": round(part.stored_bytes)}


def _splits(
    files: Iterable[tuple[dict[str, Any], Survey]], caps: tuple[int, int]
) -> Iterator[tuple[object, list[tuple[Piece, Range]]]]:
    """Splits, each with the key of its scan, None where it is read alone.

    A file that fills no split shares one with its neighbours of the same source. Where such a group ends, the
    hash of a path says, more often after a larger file, and not a count: so a file that comes, goes or
    changes disturbs its own group, and at most the next.
    """
    group: list[tuple[Piece, Range]] = []
    for row, survey in files:
        parts = _parts(row, survey, caps)
        (piece, first), *second = itertools.islice(parts, 2)
        filled = sum(part.weight for _, part in group)
        if group and (second or filled + first.weight > 1 or group[0][0].source != piece.source):
            yield None, group
            group = []
        if second:
            whole = itertools.chain([(piece, first)], second, parts)
            yield from ((_scan(survey, *part), [part]) for part in whole)
            continue
        group.append((piece, first))
        if _share(piece) * GROUP_FILL < first.weight:
            yield None, group
            group = []
    if group:
        yield None, group


def _parts(row: Mapping[str, Any], survey: Survey, caps: tuple[int, int]) -> Iterator[tuple[Piece, Range]]:
    """What splits take of a file, one after the other: it may be cut into a great many."""
    for part in cut(survey.spans, *caps):
        yield Piece(**row, unit=survey.unit, start=part.start, stop=part.stop), part


def _scan(survey: Survey, piece: Piece, part: Range) -> object:
    """What is read in one pass: a file that can only be streamed, or a row group."""
    if survey.unit == "bytes" or not (survey.streamed or part.span is not None):
        return None
    return piece.source_file, None if survey.streamed else part.span


def _share(piece: Piece) -> float:
    """A number in [0, 1) that a file's name decides."""
    return int.from_bytes(blake2b(piece.source_file.encode(), digest_size=8).digest()) / 2**64


def split_id(dataset_digest: str, pieces: Sequence[Piece]) -> str:
    """20 hex digits that name a split: of this dataset, these versions of these files, these ranges."""
    content = [
        [piece.source, piece.file, piece.version, piece.unit, piece.start, piece.stop] for piece in pieces
    ]
    return blake2b(json.dumps([dataset_digest, content]).encode(), digest_size=10).hexdigest()
