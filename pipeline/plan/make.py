"""Lists the sources, surveys their files, and cuts them into splits, all before anything starts."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from pipeline import schema, storage, telemetry
from pipeline.config.sections import Config
from pipeline.config.source import Source, shard_column
from pipeline.errors import ConfigError, SourceError
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.outputs import reserved_names
from pipeline.plan.cut import Range, cut_spans
from pipeline.plan.plan import _FIELDS, BLOCK_ROWS, PIECE, Plan, split_id
from pipeline.plan.sizing import rows_of_a_split, split_bytes
from pipeline.source.deleted import in_range, pack
from pipeline.source.formats import Piece, Survey, file_name, partition_keys
from pipeline.source.inspection import Listed, Surveyed
from pipeline.source.survey import survey as survey_files
from pipeline.source.tables import Snapshot, read_snapshot, refuse_tables

GROUP_FILL = 0.5
"""How full a split of small files is on average, as a fraction of what it may hold."""


def make_plan(config: Config, checkpoint: Checkpoint, dataset_digest: str) -> Plan:
    """Lists the sources, surveys their files, and cuts them into splits.

    The plan keeps a file that can't be cut, with its error.

    Raises:
        ConfigError: a source names nothing, or none of its files has the columns that the config names.
        StorageError: storage failed.
    """
    found = _look_into(config)
    for name, source in config.source.items():
        refuse_tables(name, source, found[name])
    listed = _listed(found)
    telemetry.event("planning", files=len(listed))
    sources = {name: source.with_pair for name, source in config.source.items()}
    surveyed = _without_pairs(survey_files(listed, sources), listed, config)
    _refuse_failing_sources(config, listed, surveyed)
    columns, surveyed = _unify(surveyed, config)
    _refuse_failing_sources(config, listed, surveyed)
    caps = rows_of_a_split(config, checkpoint), split_bytes(config, checkpoint)
    rows = _rows(listed, surveyed, config, dataset_digest, caps)
    return Plan(_table(rows), columns, dataset_digest, _passed_over(found), _snapshots(found))


def _without_pairs(surveyed: Sequence[Surveyed], listed: Sequence[Listed], config: Config) -> list[Surveyed]:
    """Takes the columns of second texts, which no shard has, out of the surveys."""
    return [
        _without_pair(found, config.source[name]) if isinstance(found, Survey) else found
        for found, (name, _) in zip(surveyed, listed, strict=True)
    ]


def _without_pair(found: Survey, source: Source) -> Surveyed:
    """Takes the column of second texts out of a survey; a file that has none, or not of text, fails."""
    path = source.text_pair_column
    if path is None or not (found.spans or len(found.columns)):
        return found
    name = shard_column(path)
    kind = found.columns.field(name).type if name in found.columns.names else None
    if kind not in (pa.string(), pa.null()):
        got = f"{path!r}: {'no such column' if kind is None else kind}"
        return SourceError("has no second texts", got=got, hint="check text_pair_column")
    if name in source.fields:
        return found
    return replace(found, columns=pa.schema([each for each in found.columns if each.name != name]))


def _table(rows: Iterator[dict[str, Any]]) -> pa.Table:
    """Makes a table of rows, a few at a time: a million rows as Python objects would fill gigabytes."""
    blocks = iter(lambda: list(itertools.islice(rows, BLOCK_ROWS)), [])
    tables = [pa.Table.from_pylist(block, schema=schema.PLAN) for block in blocks]
    return pa.concat_tables([schema.PLAN.empty_table(), *tables])


def list_sources(config: Config) -> list[Listed]:
    """Returns every object of every source with the source's name, in a stable order.

    Raises:
        MissingError: a source names nothing.
    """
    return _listed(_look_into(config))


def _look_into(config: Config) -> dict[str, storage.Listing]:
    """Lists each source: its objects, and what is passed over."""
    return {name: _look_into_one(name, source) for name, source in config.source.items()}


def _look_into_one(name: str, source: Source) -> storage.Listing:
    if source.table_folder:
        return read_snapshot(name, source)
    return storage.connect(source.path, source.options).search(source.path, source.hidden)


def _listed(found: Mapping[str, storage.Listing]) -> list[Listed]:
    return [(name, info) for name, listing in found.items() for info in listing.files]


def _passed_over(found: Mapping[str, storage.Listing]) -> dict[str, dict[str, int]]:
    """Counts what is passed over, by source and reason."""
    counted = {name: Counter(listing.passed_over.values()) for name, listing in found.items()}
    return {name: dict(sorted(reasons.items())) for name, reasons in counted.items() if reasons}


def _snapshots(found: Mapping[str, storage.Listing]) -> dict[str, int]:
    """Returns the version of each table."""
    return {name: listing.version for name, listing in found.items() if isinstance(listing, Snapshot)}


def _refuse_failing_sources(config: Config, listed: list[Listed], surveyed: list[Surveyed]) -> None:
    for name, source in config.source.items():
        owned = [
            (info, found) for (owner, info), found in zip(listed, surveyed, strict=True) if owner == name
        ]
        _refuse_if_all_fail(name, source, owned)


def _refuse_if_all_fail(
    name: str, source: Source, found: Sequence[tuple[storage.ObjectInfo, Surveyed]]
) -> None:
    """Refuses a source if none of its files can be embedded: then the config is wrong."""
    errors = [survey for _, survey in found if isinstance(survey, SourceError)]
    if len(errors) == len(found):
        first = errors[0]
        raise ConfigError(
            f"none of its {len(found)} files can be embedded",
            f"source.{name}",
            f"{source.path}: {first.finding}",
            first.hint or "check path, format and columns of this source",
        )
    surveys = [survey for _, survey in found if isinstance(survey, Survey)]
    if not any(survey.spans or len(survey.columns) for survey in surveys):
        return  # files without rows and columns say nothing about the config
    for column in source.columns:
        if not any(column in survey.columns.names for survey in surveys):
            is_key = any(column in partition_keys(info.path) for info, _ in found)
            hint = f"it is a key of the path: set partitions: [{column}]" if is_key else "check its name"
            raise ConfigError(
                f"column {column!r} is in none of its files", f"source.{name}", source.path, hint
            )


def _unify(surveyed: list[Surveyed], config: Config) -> tuple[pa.Schema, list[Surveyed]]:
    """Returns one schema for all shards; a file whose types do not fit it becomes a failed file."""
    names = list(dict.fromkeys(name for source in config.source.values() for name in source.columns))
    ours = any(source.id_column is None for source in config.source.values())
    names = ["id", *names] if ours else names
    _refuse_collisions(names, reserved_names(config.model.outputs))
    columns, misfits = _joined_columns(surveyed, pa.schema([pa.field("id", pa.string())] if ours else []))
    kept = [
        misfits.get(survey.columns, survey) if isinstance(survey, Survey) and survey.spans else survey
        for survey in surveyed
    ]
    columns = _with_columns_of_empty(columns, surveyed)
    types = {name: columns.field(name).type if name in columns.names else pa.string() for name in names}
    return pa.schema([pa.field(name, schema.without_nulls(kind)) for name, kind in types.items()]), kept


def _joined_columns(
    surveyed: Sequence[Surveyed], columns: pa.Schema
) -> tuple[pa.Schema, dict[pa.Schema, SourceError]]:
    """Joins the columns of all files with rows into one schema, and tells which columns do not fit into it.

    The columns that most of the data has come first: one odd file must not make all others fail.
    """
    found = [survey for survey in surveyed if isinstance(survey, Survey) and survey.spans]
    exact = {name for survey in found if not survey.types_inferred for name in survey.columns.names}
    data: Counter[pa.Schema] = Counter()
    for survey in found:
        data[survey.columns] += round(sum(span.stored_bytes for span in survey.spans))
    misfits: dict[pa.Schema, SourceError] = {}
    for each, _ in data.most_common():
        try:
            columns = _joined(columns, each, exact)
        except pa.ArrowException as error:
            misfits[each] = SourceError(
                "its columns do not fit those of the other files",
                got=str(error),
                hint="give the columns the same types, or make it a source of another job",
            )
    return columns, misfits


def _with_columns_of_empty(columns: pa.Schema, surveyed: Sequence[Surveyed]) -> pa.Schema:
    """Adds the columns that only files without rows have to a schema. Their types decide nothing else."""
    for survey in surveyed:
        if isinstance(survey, Survey) and not survey.spans:
            for field in survey.columns:
                columns = columns if field.name in columns.names else columns.append(field)
    return columns


def _joined(columns: pa.Schema, more: pa.Schema, exact: Collection[str]) -> pa.Schema:
    """Joins two schemas.

    Args:
        exact: columns whose types come from a file's own schema. The types of other columns come from
            samples; if two of them differ, both become text.

    Raises:
        ArrowException: two types do not fit.
    """
    joined = []
    for field in more:
        at = columns.get_field_index(field.name)
        try:
            kind = schema.joined_type(columns.field(at).type, field.type) if at >= 0 else field.type
            joined.append(pa.field(field.name, kind))
        except pa.ArrowException as error:
            if field.name in exact:
                raise pa.ArrowTypeError(f"column {field.name!r}: {error}") from None
            joined.append(pa.field(field.name, pa.string()))
    names = set(more.names)
    return pa.schema([field for field in columns if field.name not in names] + joined)


def _refuse_collisions(names: Sequence[str], reserved: Collection[str]) -> None:
    seen = {name.lower(): name for name in reserved}
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
    """Yields the rows of a plan: first the files without splits, then the pieces of every split.

    If no file has a row, there is one split without rows: readers need a shard to find the columns in.
    """
    files: list[tuple[dict[str, Any], Survey]] = []
    no_rows = not any(isinstance(survey, Survey) and survey.spans for survey in surveyed)
    for (name, info), survey in zip(listed, surveyed, strict=True):
        file = file_name(config.source[name], info)
        row = {"source": name, "file": file, "version": info.version, "size": info.size}
        if isinstance(survey, SourceError):
            yield row | {"error": str(survey)}
        elif survey.spans:
            files.append((row, survey))
        elif no_rows:
            yield row | _split_without_rows(row, dataset_digest)
            no_rows = False
        else:
            yield row | {"unit": survey.unit, "start": 0, "stop": 0}
    scan, last = -1, None
    for number, (key, split) in enumerate(_splits(files, caps)):
        scan, last = scan + (key is None or key != last), key
        ids = {"split": number, "split_id": split_id(dataset_digest, [piece for piece, _ in split])}
        for piece, part in split:
            fields = dict(zip(PIECE, _FIELDS(piece), strict=True))
            yield ids | {"scan": scan, **fields, "stored_bytes": round(part.stored_bytes)}


def _split_without_rows(row: Mapping[str, Any], dataset_digest: str) -> dict[str, Any]:
    """Returns the fields of the only split of a plan without rows, which a file without rows stands for."""
    piece = Piece(**row, unit="rows", start=0, stop=0)
    ids = {"split": 0, "split_id": split_id(dataset_digest, [piece]), "scan": 0, "stored_bytes": 0}
    return {**ids, "unit": piece.unit, "start": piece.start, "stop": piece.stop}


def _splits(
    files: Iterable[tuple[dict[str, Any], Survey]], caps: tuple[int, int]
) -> Iterator[tuple[object, list[tuple[Piece, Range]]]]:
    """Yields splits, each with the key of its scan, or None if it is read alone.

    A file that is too small for a split shares one with its neighbours of the same source. The hash of a
    path, and not a count, decides where such a group ends (more often after a larger file). So a file that is
    added, removed or changed affects only its own group, and at most the next one.
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
    """Yields the pieces of a file one by one, because a file may be cut into very many."""
    for part in cut_spans(survey.spans, *caps):
        deleted = in_range(survey.deleted, part.start, part.stop)
        piece = Piece(
            **row,
            unit=survey.unit,
            start=part.start,
            stop=part.stop,
            table=survey.table,
            deleted_rows=len(deleted),
            deleted=pack(deleted),
        )
        yield piece, part


def _scan(survey: Survey, piece: Piece, part: Range) -> object:
    """Returns the key of what is read in one pass: a file that can only be streamed, or a row group."""
    if survey.unit == "bytes" or not (survey.streamed or part.span is not None):
        return None
    return piece.source_file, None if survey.streamed else part.span


def _share(piece: Piece) -> float:
    """Returns a number in [0, 1) that depends only on the file's name."""
    return int.from_bytes(blake2b(piece.source_file.encode(), digest_size=8).digest()) / 2**64
