"""Reads the rows that a report shows: a bounded sample of vectors, texts and rejects.

Reads the first `SHARD_BYTES` of at most `MAX_SHARDS` shards, and at most `MAX_REJECT_FILES` files of rejects,
however large the dataset is. The module `texts` says what the texts cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import parsing, schema
from pipeline.config.sections import Config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.expected import Expected
from pipeline.errors import MissingError
from pipeline.model.outputs import embedding, reserved_names
from pipeline.model.outputs.embedding import Vectors
from pipeline.operate.report.markup import beginning
from pipeline.operate.report.texts import texts
from pipeline.plan.plan import Plan

MAX_SHARDS = 16
SHARD_BYTES = 8 << 20
MAX_REJECT_FILES = 8
EXAMPLES = 3
"""Rejects that are shown for each reason."""
LONGEST_VALUE = 40
"""Characters of a carried value."""
BATCH_ROWS = 256
BUFFER_BYTES = 1 << 20
THREADS = 4
OURS = ("embedding", "embedding_scale", "source_file", "source_row", "char_start", "char_stop")


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows: their vectors, their places, their carried columns, and their texts if known.

    shards: the number of shards that they are from.
    """

    vectors: Vectors
    rows: pa.Table
    carried: Mapping[str, Sequence[object]]
    texts: Sequence[str | None]
    shards: int

    @property
    def sources(self) -> list[str]:
        """Returns the source of each row."""
        return [file.partition("/")[0] for file in self.rows["source_file"].to_pylist()]

    @property
    def places(self) -> list[str]:
        """Returns the place of each row, `<source>/<file>#<row>`."""
        files, rows = (self.rows[name].to_pylist() for name in ("source_file", "source_row"))
        return [f"{file}#{row}" for file, row in zip(files, rows, strict=True)]


def drawn(config: Config, dataset: Dataset, plan: Plan, records: pa.Table) -> Sample | None:
    """Draws some rows, spread over the shards; None if there are none, none are wanted, or none has a vector.

    Raises:
        StorageError: storage failed.
    """
    filled = records.filter(pc.greater(records["rows"], 0))
    if not filled.num_rows or not config.report.samples:
        return None
    chosen = _chosen(filled)
    whole = sum(record["rows"] for record in chosen)
    wanted = [-(-config.report.samples * record["rows"] // whole) for record in chosen]
    expected = _expected(dataset, plan)
    if "embedding" not in expected.outputs.names:
        return None
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(lambda record, rows: _rows(dataset, record, rows, expected), chosen, wanted))
    rows = pa.concat_tables(parts).slice(0, config.report.samples)
    ours = [name for name in OURS if name in rows.column_names and not name.startswith("embedding")]
    return Sample(
        embedding.load(rows, expected.outputs.dimension),
        rows.select(ours),
        {name: [_value(value) for value in rows[name].to_pylist()] for name in _carried(config, rows)},
        texts(config, plan, rows, [record["split_id"] for record in chosen]),
        len(chosen),
    )


def _expected(dataset: Dataset, plan: Plan) -> Expected:
    """Returns the form of every shard."""
    identity = dataset.identity()
    if identity is None:
        raise MissingError("is missing", dataset.layout.identity, hint="put back the one that the run wrote")
    return Expected.of(identity, plan.columns)


def rejected(dataset: Dataset, records: pa.Table) -> list[dict[str, Any]]:
    """Returns some rejects of each reason, as rows of `schema.REJECTS`.

    Raises:
        StorageError: storage failed.
    """
    names = list(_reject_files(records))
    with ThreadPoolExecutor(THREADS) as pool:
        tables = list(pool.map(lambda name: _rejects(dataset, name), names))
    found = pa.concat_tables([schema.REJECTS.empty_table(), *tables])
    shown: list[dict[str, Any]] = []
    for reason in pc.unique(found["reason"]).to_pylist():
        some = found.filter(pc.equal(found["reason"], reason))
        shown += some.slice(0, EXAMPLES).to_pylist()
    return shown


def _rejects(dataset: Dataset, name: str) -> pa.Table:
    path = dataset.layout.rejects_file(name)
    return parsing.table(dataset.storage.read(path), schema.REJECTS, path)


def _reject_files(records: pa.Table) -> Iterator[str]:
    """Yields for each reason the file of the first shard that has it."""
    shards = pc.list_parent_indices(records["reasons"].combine_chunks())
    reasons = schema.structs(records["reasons"], schema.REASON)["reason"]
    files = [
        records["rejects_file"][shards[pc.index(reasons, reason).as_py()].as_py()].as_py()
        for reason in pc.unique(reasons)
    ]
    yield from list(dict.fromkeys(file for file in files if file))[:MAX_REJECT_FILES]


def _chosen(records: pa.Table) -> list[dict[str, Any]]:
    """Returns at most `MAX_SHARDS` records, evenly spaced."""
    at = np.unique(np.linspace(0, records.num_rows - 1, MAX_SHARDS).astype(np.int64))
    chosen = records.select(["split_id", "rows", "file_bytes"]).take(at if records.num_rows else [])
    return list(chosen.to_pylist())


def _rows(dataset: Dataset, record: Mapping[str, Any], wanted: int, expected: Expected) -> pa.Table:
    """Reads rows of one shard, evenly spaced in its first `SHARD_BYTES`, with the columns cheap to show.

    Raises:
        DamagedError: the shard has other columns than it should.
    """
    cheap = _cheap(expected.columns, reserved_names(expected.outputs.names))
    most = max(wanted, SHARD_BYTES * record["rows"] // max(record["file_bytes"], 1))
    taken, seen = [], 0
    path = dataset.layout.shard(record["split_id"])
    with dataset.storage.open(path) as file:
        # Buffered, so that nothing after the last batch is read.
        shard = parsing.opened(file, path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        parsing.refuse_other(shard, expected.columns, path)
        for batch in shard.iter_batches(BATCH_ROWS, columns=cheap):
            taken.append(batch)
            seen += batch.num_rows
            if seen >= most:
                break
    table = pa.Table.from_batches(taken).slice(0, most)
    return table.take(np.unique(np.linspace(0, table.num_rows - 1, wanted).astype(np.int64)))


def _cheap(columns: pa.Schema, reserved: set[str]) -> list[str]:
    """Returns our columns that a sample needs, and carried ones whose values fit into a few characters."""
    kinds = (
        pa.types.is_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_date, pa.types.is_decimal,
    )  # fmt: skip
    carried = [field for field in columns if field.name not in reserved]
    short = [field.name for field in carried if any(is_kind(field.type) for is_kind in kinds)]
    return [*(name for name in OURS if name in columns.names), *short]


def _carried(config: Config, rows: pa.Table) -> list[str]:
    """Returns the carried columns that rows may be coloured by: neither ids nor texts."""
    sources = config.source.values()
    names = dict.fromkeys(name for source in sources for name in source.columns)
    others = {
        name
        for source in sources
        for name, path in source.fields.items()
        if path in (source.id_column, source.text_column)
    }
    return [name for name in names if name in rows.column_names and name not in others]


def _value(value: object) -> object:
    return beginning(value, LONGEST_VALUE) if isinstance(value, str) else value
