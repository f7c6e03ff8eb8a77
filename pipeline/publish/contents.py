"""Describes what a table holds: the shards of one dataset, and its columns as tables have them."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import schema
from pipeline.config.location import absolute
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ConfigError, StoppedError
from pipeline.nightly import Series
from pipeline.nightly.members import date_in

MARK = "albert_embed."
"""What the names of all our properties of a snapshot begin with."""
DATASET, DIGEST, CLAIM = f"{MARK}dataset", f"{MARK}dataset_digest", f"{MARK}claim"
VECTOR_DIGEST, RUN_DATE, DIMENSION = f"{MARK}vector_digest", f"{MARK}run_date", f"{MARK}dimension"


@dataclass(frozen=True, slots=True)
class File:
    """A shard with rows.

    path: relative to the series.
    least, most: a `source_file` and a `source_row` that no row of the shard goes below, or above.
    """

    path: str
    size: int
    rows: int
    least: tuple[str, int] | None
    most: tuple[str, int] | None


@dataclass(frozen=True)
class Contents:
    """The content of a table: one complete dataset.

    series: the absolute path or URL of the series.  name: that of the dataset.
    marks: the properties of a snapshot by which the dataset is recognized.
    columns: the columns of the table, with field ids.  dimension: of the vectors; 0 if there are none.
    """

    series: str
    name: str
    run_date: datetime.date
    marks: Mapping[str, str]
    columns: pa.Schema
    dimension: int
    files: Sequence[File]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def contents_of(series: Series, name: str | None) -> Contents:
    """Returns the content of a table that shows a dataset.

    Args:
        name: the name of the dataset; if None, the one that LATEST.json names.

    Raises:
        SeriesError: there is no such dataset, or LATEST.json can't be read.
        ConfigError: tables have no type for one of its columns.
        StoppedError: it is being removed.
        StorageError: storage failed, or the dataset is damaged.
    """
    dataset = series.complete_dataset(name) if name else series.dataset(series.followed().dataset)
    name = dataset.layout.root.rpartition("/")[2]
    refuse_removed(dataset)
    claim = dataset.claim_file()
    run_date = date_in(name)
    assert run_date is not None, name
    spec = claim.identity().outputs
    dimension = spec.dimension if "embedding" in spec.names else 0
    told = {
        DATASET: name,
        RUN_DATE: run_date.isoformat(),
        DIGEST: claim.digests()[0],
        VECTOR_DIGEST: claim.digests()[1],
        CLAIM: claim.token,
        DIMENSION: str(dimension),
    }
    return Contents(
        series=absolute(series.layout.root),
        name=name,
        run_date=run_date,
        marks=told,
        columns=table_columns(dataset.shard_schema(), dataset.layout.root),
        dimension=dimension,
        files=list(_files(dataset.manifest(), series.layout.root, dataset)),
    )


def refuse_removed(dataset: Dataset) -> None:
    """Refuses a dataset that a prune removes, or has removed.

    Raises:
        StoppedError: it is such a dataset.
    """
    if dataset.claimed() is None or not dataset.complete():
        hint = "publish again: LATEST.json names another, or name one that stays"
        raise StoppedError("is being removed, and can't be shown by a table", dataset.layout.root, hint=hint)


def _files(manifest: pa.Table, series: str, dataset: Dataset) -> Iterable[File]:
    """Yields the shards that have rows; readers of some engines fail at a file without any."""
    columns = (manifest.column(name).to_pylist() for name in ("split_id", "file_bytes", "rows", "pieces"))
    for split_id, size, rows, pieces in zip(*columns, strict=True):
        if rows:
            path = dataset.layout.shard(split_id).removeprefix(f"{series}/")
            yield File(path, size, rows, *_edges(pieces))


def _edges(
    pieces: Iterable[Mapping[str, Any]],
) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
    """Returns the least and the greatest place that rows of these pieces can have, each column by itself."""
    filled = [piece for piece in pieces if piece["rows"]]
    if not filled:
        return None, None
    files = [f"{piece['source']}/{piece['file']}" for piece in filled]
    first = min(piece["start"] for piece in filled)
    last = max(piece["stop"] for piece in filled) - 1
    return (min(files), first), (max(files), last)


def table_columns(shard: pa.Schema, where: str) -> pa.Schema:
    """Returns the columns of a table over shards of this schema, with the field ids of these.

    Every column may be null, so that a later dataset can lack it. Lists have no size, and instants no zone
    but UTC.

    Raises:
        ConfigError: tables have no type for a column.
    """
    found = []
    for each in shard:
        try:
            found.append(_nullable(each))
        except TypeError as error:
            what = f"column {each.name!r} has a type that no table has"
            hint = "convert it in the source, or do not carry it"
            raise ConfigError(what, where, str(error), hint) from None
    return pa.schema(found)


def _nullable(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _table_type(field.type), True, field.metadata)


def _table_type(kind: Any) -> pa.DataType:
    """Returns the type of a table's column.

    Raises:
        TypeError: there is none.
    """
    types = pa.types
    if types.is_unsigned_integer(kind):
        raise TypeError(str(kind))
    if types.is_struct(kind):
        return pa.struct([_nullable(each) for each in kind])
    if types.is_map(kind):
        key = pa.field("key", _table_type(kind.key_type), False, kind.key_field.metadata)
        return pa.map_(key, _nullable(kind.item_field))
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(_nullable(kind.value_field))
    if types.is_timestamp(kind) and kind.tz:
        return pa.timestamp("us", schema.UTC)
    return kind


def _differences(before: pa.Schema, after: pa.Schema) -> list[str]:
    """Describes each column that both schemas have with other types, in a phrase each."""
    types = {each.name: each.type for each in before}
    return [
        f"{each.name} is {types[each.name]} there, {each.type} here"
        for each in after
        if each.name in types and types[each.name] != each.type
    ]


def refuse_other(
    before: pa.Schema, after: pa.Schema, dimension: str | None, wanted: Contents, where: str
) -> None:
    """Refuses a dataset whose columns or vectors a table's readers can't expect.

    New columns are added, and columns that the dataset lacks leave the table: neither harms a query.

    Args:
        before, after: the table's columns, and those that it would have, as the table's library tells them.
        dimension: that of its vectors; None if it does not tell.

    Raises:
        ConfigError: a column has another type, or the vectors have another dimension.
    """
    found = _differences(before, after)
    if dimension not in (None, str(wanted.dimension)):
        found.append(f"vectors have {dimension} dimensions there, {wanted.dimension} here")
    if found:
        hint = "publish into a new table; or remove this one from its catalog or folder, and publish again"
        what = f"has columns that {wanted.name} has with other types"
        raise ConfigError(what, where, found[0], hint, found[1:])
