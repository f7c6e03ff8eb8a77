"""Compares the planned rows and bytes with what the shards hold."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import (
    IncompleteError,
)
from pipeline.humanize import named
from pipeline.plan.plan import planned_rows, source_files


def failed_pieces(pieces: pa.ChunkedArray) -> dict[str, str]:
    """Returns the files that could not be read for a shard of several files, with the reason of each."""
    found = schema.structs(pieces, schema.PIECE)
    found = found.filter(pc.is_valid(found.column("error")))
    return dict(zip(source_files(found).to_pylist(), found.column("error").to_pylist(), strict=True))


def reconcile(planned: pa.Table, pieces: pa.ChunkedArray, present: set[str]) -> None:
    """Checks that every planned row of the present splits was embedded or rejected, and no other row was.

    Raises:
        IncompleteError: a file's rows do not add up; the first few are named.
    """
    if wrong := unaccounted(planned, pieces, present):
        raise IncompleteError(
            "rows are unaccounted for",
            got=named([f"{file}: {what}" for file, what in wrong]),
            hint="`verify` names the shards, and docs/operations.md what to do with them",
        )


def unaccounted(planned: pa.Table, pieces: pa.ChunkedArray, present: set[str]) -> list[tuple[str, str]]:
    """Returns each file whose rows `reconcile` would not accept, with the reason."""
    failed = pa.array(list(failed_pieces(pieces)), pa.string())
    planned = planned.filter(pc.invert(pc.is_in(source_files(planned), failed)))
    done = schema.structs(pieces, schema.PIECE)
    is_there = pc.is_in(planned.column("split_id"), pa.array(list(present), pa.string()))
    # The consumed ranges can tile a file only if none of its splits is missing.
    torn = planned.filter(pc.invert(is_there))
    wrong = _wrong_rows(planned.filter(is_there), done)
    return wrong + _wrong_bytes(planned, done, set(source_files(torn).to_pylist()))


def _wrong_rows(wanted: pa.Table, done: pa.Table) -> list[tuple[str, str]]:
    """Returns the files cut by rows whose embedded and rejected rows are not as many as planned."""
    wanted = wanted.filter(pc.equal(wanted.column("unit"), "rows"))
    planned = schema.sum_by(source_files(wanted), planned_rows(wanted))
    found = schema.sum_by(source_files(done), pc.add(done.column("rows"), done.column("rejects")))
    return [
        (file, f"{rows} rows planned, {found.get(file, 0)} found")
        for file, rows in planned.items()
        if found.get(file, 0) != rows
    ]


def _wrong_bytes(planned: pa.Table, done: pa.Table, torn: set[str]) -> list[tuple[str, str]]:
    """Returns the files cut by bytes whose consumed ranges do not tile [0, size)."""
    planned = planned.filter(pc.equal(planned.column("unit"), "bytes").fill_null(False))
    sizes = dict(zip(source_files(planned).to_pylist(), planned.column("size").to_pylist(), strict=True))
    reached = dict.fromkeys(sizes, 0)
    ranges = pa.table(
        {"file": source_files(done), "start": done.column("start"), "stop": done.column("stop")}
    )
    ranges = ranges.filter(pc.is_in(ranges.column("file"), pa.array(list(sizes), pa.string())))
    ranges = ranges.sort_by([("file", "ascending"), ("start", "ascending"), ("stop", "ascending")])
    for file, start, stop in zip(*(column.to_pylist() for column in ranges.columns), strict=True):
        # After a gap or an overlap it stays -1, so the end is not reached.
        reached[file] = stop if reached[file] == start else -1
    return [
        (file, f"the lines read do not add up to its {size} bytes")
        for file, size in sizes.items()
        if reached[file] != size and file not in torn
    ]
