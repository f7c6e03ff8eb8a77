"""Sources and config become splits: data, made before anything starts.

A plan is a table with a row per piece of every split (`schema.PLAN`). It is frozen by the first driver and
adopted by every later one, so whatever decides about rows, among it the shards' columns, stands in it.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import ceil
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import formats, schema, storage, telemetry
from pipeline.checkpoint import Checkpoint
from pipeline.config import Config, Source
from pipeline.errors import ConfigError, MissingError, SourceError
from pipeline.formats import Piece, Span, Survey
from pipeline.recipe import Recipe

SURVEY_THREADS = 32
GPU_SPLIT_BYTES = 64 << 20
SECONDS_PER_CPU_SPLIT = 60
CPU_FLOPS = 1e11
"""Matrix work per second that two ordinary cores do in float32: sizes splits, and nothing else."""
BYTES_PER_TOKEN = 4
COLUMNS_KEY = b"pipeline.columns"
DIGEST_KEY = b"pipeline.dataset_digest"


@dataclass(frozen=True)
class Plan:
    """All pieces of all splits, and the id and carried columns that every shard has.

    Splits are numbered from 0 in the order of the pieces.
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

    def versions(self) -> dict[tuple[str, str], str]:
        """The version of every planned file, by source and file."""
        keys = zip(*(self.pieces.column(name).to_pylist() for name in ("source", "file")), strict=True)
        return dict(zip(keys, self.pieces.column("version").to_pylist(), strict=True))

    def pending(self, present: Iterable[str]) -> "Plan":
        """The part of the plan whose shards are not there yet."""
        missing = pc.invert(pc.is_in(self.pieces.column("split_id"), pa.array(list(present), pa.string())))
        wanted = pc.and_(missing, pc.is_valid(self.pieces.column("split_id")))
        return Plan(self.pieces.filter(wanted), self.columns, self.dataset_digest)

    def splits(self) -> Iterator[tuple[str, list[Piece]]]:
        """Split ids with their pieces, in order."""
        names = ["source", "file", "version", "size", "unit", "start", "stop"]
        current, pieces = None, []
        for batch in self.pieces.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                if row["split_id"] is None:
                    continue
                if current not in (None, row["split_id"]):
                    yield str(current), pieces
                    pieces = []
                current = row["split_id"]
                pieces.append(Piece(*(row[name] for name in names)))
        if current is not None:
            yield current, pieces

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
    def from_bytes(data: bytes) -> "Plan":
        """From plan.parquet."""
        pieces = pq.read_table(pa.BufferReader(data))
        metadata = pieces.schema.metadata
        columns = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(metadata[COLUMNS_KEY].decode())))
        return Plan(pieces.replace_schema_metadata(None), columns, metadata[DIGEST_KEY].decode())


def make(config: Config, checkpoint: Checkpoint, dataset_digest: str) -> Plan:
    """List the sources, survey their files, cut them into splits.

    A file that can't be cut stands in the plan with its error.

    Raises:
        ConfigError: a source names nothing, or none of its files has the columns that the config names.
        StorageError: storage failed.
    """
    listed = listing(config)
    telemetry.event("planning", files=len(listed))
    with ThreadPoolExecutor(SURVEY_THREADS) as pool:
        surveyed = list(pool.map(lambda entry: _survey(entry[1], config.source[entry[0]]), listed))
    _refuse_failing_sources(config, listed, surveyed)
    columns, surveyed = _unify(surveyed, config)
    _refuse_failing_sources(config, listed, surveyed)
    caps = config.output.rows_per_shard, split_bytes(config, checkpoint)
    rows = list(_rows(listed, surveyed, config, dataset_digest, caps))
    return Plan(pa.Table.from_pylist(rows, schema=schema.PLAN), columns, dataset_digest)


def listing(config: Config) -> list[tuple[str, storage.ObjectInfo]]:
    """Every object of every source, with the source's name; in a stable order.

    Raises:
        MissingError: a source names nothing.
    """
    return [
        (name, info)
        for name, source in config.source.items()
        for info in storage.connect(source.path, source.options).find(source.path)
    ]


def current_versions(config: Config) -> dict[tuple[str, str], str]:
    """What `Plan.versions` would be if the sources were planned now.

    Raises:
        MissingError: a source names nothing.
    """
    return {(name, _name(config.source[name], info)): info.version for name, info in listing(config)}


def _name(source: Source, info: storage.ObjectInfo) -> str:
    name = storage.connect(source.path, source.options).relative(source.path, info.path)
    return name.encode("utf-8", "backslashreplace").decode()


def file_path(source: Source, file: str) -> str:
    """The full path of a planned file."""
    return f"{storage.connect(source.path, source.options).root(source.path)}/{file}"


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


def _busy_bytes(config: Config, checkpoint: Checkpoint) -> int:
    if config.compute.device == "cuda":
        return GPU_SPLIT_BYTES
    tokens = SECONDS_PER_CPU_SPLIT * CPU_FLOPS / checkpoint.flops_per_token
    return int(min(max(tokens * BYTES_PER_TOKEN, 1 << 16), GPU_SPLIT_BYTES))


def cut(spans: Sequence[Span], max_rows: int, max_bytes: float) -> Iterator[tuple[int, int]]:
    """Ranges that tile the spans, none above the caps (as far as the spans know their rows and bytes).

    Small spans are joined; a large one is cut into equal parts.
    """
    run: Span | None = None
    for span in spans:
        if run is not None:
            rows, text_bytes = run.rows + span.rows, run.text_bytes + span.text_bytes
            if rows <= max_rows and text_bytes <= max_bytes:
                run = Span(run.start, span.stop, rows, text_bytes)
                continue
            yield run.start, run.stop
        run = None
        parts = min(span.stop - span.start, ceil(max(span.rows / max_rows, span.text_bytes / max_bytes)))
        if parts <= 1:
            run = span
            continue
        edges = [span.start + (span.stop - span.start) * part // parts for part in range(parts + 1)]
        yield from itertools.pairwise(edges)
    if run is not None:
        yield run.start, run.stop


def _survey(info: storage.ObjectInfo, source: Source) -> Survey | SourceError:
    try:
        info.path.encode()
        return formats.survey(info, source)
    except UnicodeEncodeError:
        return SourceError("its name is not UTF-8")
    except MissingError:
        return SourceError("is gone since it was listed")
    except SourceError as error:
        return error


def _refuse_failing_sources(
    config: Config, listed: list[tuple[str, storage.ObjectInfo]], surveyed: list[Survey | SourceError]
) -> None:
    for name, source in config.source.items():
        owned = [found for (owner, _), found in zip(listed, surveyed, strict=True) if owner == name]
        _refuse_if_all_fail(name, source, owned)


def _refuse_if_all_fail(name: str, source: Source, found: list[Survey | SourceError]) -> None:
    """What is wrong with every file is wrong with the config."""
    errors = [survey for survey in found if isinstance(survey, SourceError)]
    if len(errors) == len(found):
        raise ConfigError(
            f"none of its {len(found)} files can be embedded", f"source.{name}", f"{source.path}: {errors[0]}"
        )
    surveys = [survey for survey in found if isinstance(survey, Survey)]
    for column in source.columns:
        if not any(column in survey.columns.names for survey in surveys):
            raise ConfigError(f"column {column!r} is in none of its files", f"source.{name}", source.path)


def _unify(
    surveyed: list[Survey | SourceError], config: Config
) -> tuple[pa.Schema, list[Survey | SourceError]]:
    """One schema for all shards; a file whose types can't join it becomes a failed one."""
    names = list(dict.fromkeys(name for source in config.source.values() for name in source.columns))
    ours = any(source.id_column is None for source in config.source.values())
    names = ["id", *names] if ours else names
    _refuse_collisions(names)
    columns = pa.schema([pa.field("id", pa.string())] if ours else [])
    kept: list[Survey | SourceError] = []
    for survey in surveyed:
        if isinstance(survey, Survey):
            try:
                columns = pa.unify_schemas([columns, survey.columns], promote_options="permissive")
            except pa.ArrowException as error:
                kept.append(SourceError("its columns do not fit the files before it", got=str(error)))
                continue
        kept.append(survey)
    fields = [columns.field(name) for name in names]
    return pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in fields]), kept


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
    listed: list[tuple[str, storage.ObjectInfo]],
    surveyed: list[Survey | SourceError],
    config: Config,
    dataset_digest: str,
    caps: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    split = 0
    for (name, info), survey in zip(listed, surveyed, strict=True):
        file = _name(config.source[name], info)
        row = {"source": name, "file": file, "version": info.version, "size": info.size}
        if isinstance(survey, SourceError):
            yield row | {"error": str(survey)}
            continue
        ranges = list(cut(survey.spans, *caps))
        if not ranges:
            yield row | {"unit": survey.unit, "start": 0, "stop": 0}
        for start, stop in ranges:
            piece = Piece(name, file, info.version, info.size, survey.unit, start, stop)
            ids = {"split": split, "split_id": split_id(dataset_digest, [piece])}
            yield ids | row | {"unit": survey.unit, "start": start, "stop": stop}
            split += 1


def split_id(dataset_digest: str, pieces: Sequence[Piece]) -> str:
    """20 hex digits that name a split: of this dataset, these versions of these files, these ranges."""
    content = [
        [piece.source, piece.file, piece.version, piece.unit, piece.start, piece.stop] for piece in pieces
    ]
    return blake2b(json.dumps([dataset_digest, content]).encode(), digest_size=10).hexdigest()
