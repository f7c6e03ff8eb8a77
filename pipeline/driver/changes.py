"""Makes the changes of a dataset since another, and with `reuse.changes` those of a night since its base.

The order keeps what a reader may rely on: `_since.json` says which two datasets are compared, then come the
parts, then `_counts.json`, then `_SUCCESS`. All are written only if absent, and each is the same whoever
writes it. So a job that was killed is done by the next one, and two at once do no harm.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import parsing, telemetry
from pipeline.config.sections import Config
from pipeline.dataset.damage import unless_damaged
from pipeline.dataset.dataset import Dataset
from pipeline.embed.spread_out import spread_out
from pipeline.errors import (
    DamagedError,
    ExistsError,
    IncompleteError,
    MissingError,
    OtherDatasetError,
)
from pipeline.humanize import named
from pipeline.nightly.changes.compare import CHANGED_ROW, compare, count
from pipeline.nightly.changes.fingerprint import FINGERPRINT, SHARED, ShardToRead, fingerprints, opened
from pipeline.nightly.changes.pair import PLACE, Pair, Side, refuse_another, said
from pipeline.nightly.changes.part import PartToWrite, Target, write_none, write_part
from pipeline.nightly.changes.partitions import Partitions, Rows, partitions
from pipeline.nightly.changes.record import CHANGES, Changes, PartRecord, made_before
from pipeline.nightly.names import is_dataset_name

THREADS = 2
"""Threads without Ray. Each holds a batch of a shard's rows, or the rows of a part."""
KEY_BITS = np.uint64(56)
NOT_MADE = "no changes are made"
SHOWN = 3
"""Ids that an error names."""


def changes_of_night(config: Config, dataset: Dataset) -> Changes | None:
    """Makes the changes of a complete night since its base, if `reuse.changes` is set.

    Returns:
        None if the night has no base, or its base is gone or damaged: then there is nothing to compare with.

    Raises:
        PipelineError: the errors of `make_changes`.
    """
    if not config.reuse.changes:
        return None
    base, options = dataset.base(), config.output.options
    if base is None:
        telemetry.event(NOT_MADE, reason="the dataset has no base")
        return None
    # Before the base is opened: it may have been pruned since.
    name = base.rpartition("/")[2]
    if is_dataset_name(name) and (found := made_before(dataset.storage, dataset.layout.changes(name))):
        return found
    old = unless_damaged(NOT_MADE, base, lambda: Side.at(base, options))
    if old is None:
        return None
    try:
        return make_changes(Side.at(dataset.layout.root, options), old)
    except (MissingError, DamagedError, OtherDatasetError) as error:
        if not error.where.startswith(f"{old.root}/"):
            raise
        telemetry.warn(NOT_MADE, base=base, reason=error.finding)
        return None


def make_changes(new: Side, old: Side, dry_run: bool = False) -> Changes:
    """Writes the changes of a dataset since another into it, unless they are there.

    Args:
        dry_run: only count them.

    Raises:
        SeriesError: the two can't be compared.
        IncompleteError: a row has no id, or that of another row.
        OtherDatasetError: there are changes since another dataset of this name.
        StoppedError: the dataset is being removed.
        DamagedError, MissingError: a file of one of the two can't be read, or is gone.
    """
    pair = Pair(new, old)
    storage = new.dataset.storage
    if storage.exists(pair.layout.since):
        refuse_another(parsing.json_object(storage.read(pair.layout.since), pair.layout.since), pair)
    if found := made_before(storage, pair.layout):
        return found
    with ExitStack() as held:
        changed = held.enter_context(partitions(CHANGED_ROW))
        made = _compared(pair, changed)
        telemetry.event("compared", since=old.name, **made.figures)
        return made if dry_run else _written(pair, made, changed)


def _compared(pair: Pair, changed: Partitions) -> Changes:
    """Compares all rows, and puts those that changed into `changed`, by their shards."""
    counts: list[dict[str, int]] = []
    with partitions(FINGERPRINT) as read:
        _read_all(pair, read)
        repeated: list[Rows] = []
        for rows in read:
            found = compare(rows, pair.alike)
            counts.append(count(found.changed))
            repeated.append(found.repeated)
            changed.add(found.changed, found.changed["shard"])
        _refuse_repeated(pair, repeated)
    sums = {name: sum(each[name] for each in counts) for name in CHANGES}
    rows_read = sum(shard.rows for shard in pair.shards if shard.side != SHARED)
    ids_read = sum(shard.rows for shard in pair.shards if shard.side == SHARED)
    made = Changes(
        pair.layout.root, **sums, rows=pair.new.rows, rows_before=pair.old.rows, shared=pair.shared,
        rows_read=rows_read, ids_read=ids_read, parts=(),
    )  # fmt: skip
    _reconcile(made)
    return made


def _read_all(pair: Pair, read: Partitions) -> None:
    """Reads the fingerprints of all shards that differ."""
    for found in spread_out(fingerprints, pair.shards, len(pair.shards), THREADS):
        if len(found.nameless) and found.shard.side != SHARED:
            _refuse_nameless(found.shard, found.nameless)
        read.add(found.rows, found.rows["id_first"] >> KEY_BITS)


def _written(pair: Pair, made: Changes, changed: Partitions) -> Changes:
    """Writes all files of the changes."""
    new, layout = pair.new.dataset, pair.layout
    _claim(pair)
    there = {name for name in new.storage.list_files(layout.root) if name.startswith("part-")}
    target = Target(
        pair.new.root, pair.new.options, layout.root, pair.columns, tuple(pair.deleted_columns),
        pair.new.identity.outputs,
    )  # fmt: skip
    wanted = _parts(pair, changed, target, there)
    written = sorted(spread_out(write_part, wanted, len(pair.shards), THREADS), key=lambda part: part.name)
    parts = written or [write_none(target)]
    if foreign := there - {part.name for part in parts}:
        hint = "remove the folder of these changes, and run again"
        raise OtherDatasetError("does not belong here", layout.part(min(foreign)), hint=hint)
    return _committed(pair, made, parts)


def _claim(pair: Pair) -> None:
    """Writes which two datasets are compared, and checks that the dataset is not being removed.

    A prune looks for young files after it has marked the dataset: so either it or we notice the other.
    """
    new, layout = pair.new, pair.layout
    data = (json.dumps(said(pair), indent=2) + "\n").encode()
    try:
        new.dataset.storage.put_if_absent(layout.since, data, new.root)
    except ExistsError:
        found = new.dataset.storage.read(layout.since)
        refuse_another(parsing.json_object(found, layout.since), pair)
    new.dataset.held(new.identity.dataset_digest, new.claim)


def _parts(pair: Pair, changed: Partitions, target: Target, there: set[str]) -> Iterator[PartToWrite]:
    """Yields what to write: the changed rows of each shard, in its order."""
    for rows in changed:
        ordered = rows[np.lexsort((rows["row"], rows["shard"]))]
        edges = np.flatnonzero(np.diff(ordered["shard"])) + 1
        for of_shard in np.split(ordered, edges):
            if len(of_shard):
                part = PartToWrite(pair.shards[int(of_shard["shard"][0])], of_shard, target, there=False)
                yield PartToWrite(part.shard, of_shard, target, part.name in there)


def _committed(pair: Pair, made: Changes, parts: Sequence[PartRecord]) -> Changes:
    """Writes the counts, then `_SUCCESS`."""
    new, layout = pair.new, pair.layout
    sums = {name: sum(part.counts[name] for part in parts) for name in made.counts}
    if sums != made.counts:
        hint = "remove the folder of these changes, and run again"
        raise DamagedError("its files do not hold what was found", layout.root, str(sums), hint)
    whole = Changes(layout.root, **sums, **_facts(made), parts=tuple(parts))
    _put(new.dataset, layout.counts, whole.to_bytes())
    new.dataset.held(new.identity.dataset_digest, new.claim)
    _put(new.dataset, layout.success, b"")
    telemetry.event("changes made", folder=layout.root, files=len(parts), **made.counts)
    return whole


def _facts(made: Changes) -> dict[str, int]:
    return {name: value for name, value in made.figures.items() if name not in made.counts}


def _put(dataset: Dataset, path: str, data: bytes) -> None:
    """Writes a file that all who make these changes write alike.

    Raises:
        DamagedError: something else is there.
    """
    try:
        dataset.storage.put_if_absent(path, data, dataset.layout.root)
    except ExistsError:
        hint = "remove the folder of these changes, and run again"
        raise DamagedError("says something else than was found", path, hint=hint) from None


def _reconcile(made: Changes) -> None:
    """Checks that the rows before, with the added and without the deleted ones, are the rows now.

    Raises:
        IncompleteError: they are not.
    """
    found = made.rows_before + made.added - made.deleted
    if found != made.rows:
        got = f"{made.rows_before} + {made.added} - {made.deleted} = {found}, not {made.rows}"
        hint = "run `verify` for both datasets: it says which of them is damaged"
        raise IncompleteError("rows are unaccounted for", made.folder, got, hint)


def _refuse_nameless(shard: ShardToRead, rows: Rows) -> None:
    """Refuses rows without an id: nothing tells which row of the other dataset they are.

    Raises:
        IncompleteError: always.
    """
    got = f"{len(rows)} rows, {_places(shard, rows[:1])[0][1]} the first"
    hint = f"each row of source.{shard.source} needs one; quality.unique_ids refuses such a night"
    raise IncompleteError("rows have no id, so their changes can't be told", shard.root, got, hint)


def _refuse_repeated(pair: Pair, repeated: Iterable[Rows]) -> None:
    """Refuses ids that more than one row of a dataset has.

    Raises:
        IncompleteError: there are such ids; the first few are named.
    """
    pairs = np.concatenate([np.zeros((0, 2), FINGERPRINT), *repeated])
    if not len(pairs):
        return
    told = []
    for one, other in pairs[:SHOWN]:
        shards = [pair.shards[int(row["shard"])] for row in (one, other)]
        places = [
            _places(shard, np.array([row["row"]], np.int64))[0]
            for shard, row in zip(shards, (one, other), strict=True)
        ]
        told.append(f"{places[0][0]} ({places[0][1]}, {places[1][1]})")
    told += ["more"] * (len(pairs) - len(told))
    hint = "make them unique within their source; quality.unique_ids refuses such a night"
    root = pair.shards[int(pairs[0][0]["shard"])].root
    what = "more than one row has an id, so changes can't be told"
    raise IncompleteError(what, root, named(told), hint)


def _places(shard: ShardToRead, rows: Rows) -> list[tuple[Any, str]]:
    """Returns the ids of rows of a shard, and where they stand in their source."""
    with opened(shard) as parquet:
        found = parquet.read(columns=[shard.id_column, *PLACE]).take(pa.array(rows))
    columns = [found.column(name).to_pylist() for name in (shard.id_column, *PLACE)]
    return [(each, f"{file}#{row}") for each, file, row in zip(*columns, strict=True)]
