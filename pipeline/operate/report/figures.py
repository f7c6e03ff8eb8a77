"""Computes the figures of a report from plan and shard records: a few numbers each, for any number of shards.

Cost: O(shards) in Arrow and NumPy.

Shapes: S shards, W windows of time, B bins, E edges of bins.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.operate.report.axis import round_step
from pipeline.plan.plan import Plan, planned_rows
from pipeline.ragged import Ints, flat_indices

Floats = npt.NDArray[np.float64]
STAGES = {
    "read": "read_seconds", "tokenize": "tokenize_seconds", "encode": "encode_seconds",
    "write": "write_seconds", "wait for a split": "idle_seconds",
}  # fmt: skip
"""The names of a record's seconds, in the order of the flow; the last is the time that a replica is idle."""
MAX_BINS = 60
SHORTEST = 1e-3
"""The least seconds of a shard, so that all of its rows fall into a bin."""


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """The counts of one source's rows; `planned` is None if only reading tells how many there are."""

    name: str
    files: int
    planned: int | None
    embedded: int
    rejected: int
    failed_files: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rows per second over the time at work, from which pauses between attempts are cut out.

    edges: those of bins, in seconds at work.  rates: the rate of each bin.
    starts: the start of each attempt that made shards, in seconds at work.
    began, ended: seconds since 1970.
    """

    edges: Floats
    rates: Floats
    starts: tuple[float, ...]
    rows: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Returns the seconds at work."""
        return float(self.edges[-1])


@dataclass(frozen=True, slots=True)
class Histogram:
    """The numbers of values in [edge, next edge)."""

    edges: Floats
    counts: Ints


def by_source(
    plan: Plan, records: pa.Table, failed: Iterable[str], names: Sequence[str]
) -> list[SourceCounts]:
    """Counts the rows of each named source by what became of them.

    Args:
        failed: the failed files, as `<source>/<file>`.
    """
    pieces = plan.pieces
    counted = pieces.group_by("source").aggregate([("file", "count_distinct")])
    files = dict(zip(*(counted[name].to_pylist() for name in ("source", "file_count_distinct")), strict=True))
    rows = planned_rows(pieces)
    sizes = pa.table({"source": pieces["source"], "rows": rows}).filter(pc.is_valid(rows))
    planned = schema.sum_by(sizes["source"], sizes["rows"])
    cut = pieces.filter(pc.equal(pieces["unit"], "bytes").fill_null(False))
    unknown = set(pc.unique(cut["source"]).to_pylist())
    done = schema.structs(records["pieces"], schema.PIECE)
    embedded, rejected = (schema.sum_by(done["source"], done[name]) for name in ("rows", "rejects"))
    fails = [file.partition("/")[0] for file in failed]
    return [
        SourceCounts(
            name,
            files.get(name, 0),
            None if name in unknown else planned.get(name, 0),
            embedded.get(name, 0),
            rejected.get(name, 0),
            fails.count(name),
        )
        for name in names
    ]


def token_lengths(records: pa.Table) -> Ints:
    """Counts rows by the bucket of `schema.TOKEN_BUCKETS` that their number of tokens falls into."""
    histograms = records["token_histogram"]
    bucket = flat_indices(np.zeros(len(histograms), np.int64), _lengths(histograms))
    return np.bincount(bucket, pc.list_flatten(histograms).to_numpy(), 1).astype(np.int64)


def median_bucket(rows_B: Ints) -> int:
    """Returns the upper bound of the bucket that holds the median row."""
    return schema.TOKEN_BUCKETS[int(np.searchsorted(np.cumsum(rows_B), rows_B.sum() / 2))]


def throughput(made: pa.Table, attempts: Sequence[Mapping[str, Any]]) -> Throughput | None:
    """Returns rows per second over time; None if these attempts made no shard.

    The rows of a shard count evenly over the seconds in which a replica encoded it, up to `written_at`.
    """
    if not made.num_rows:
        return None
    names = pa.array([each["attempt"] for each in attempts], pa.string())
    began = np.array([_seconds(each["started"]) for each in attempts])
    first_S = began[pc.index_in(made["attempt"], names).to_numpy()]
    stop_S = made["written_at"].to_numpy()
    stop_S = np.maximum(stop_S, first_S + SHORTEST)  # clocks of two machines may differ
    encoding_S = np.maximum(made["encode_seconds"].to_numpy(), SHORTEST)
    start_S = np.maximum(stop_S - encoding_S, first_S)
    start_W, stop_W = _windows(first_S, stop_S)
    from_S, to_S = (_at_work(times, start_W, stop_W) for times in (start_S, stop_S))
    whole = float((stop_W - start_W).sum())
    edges_E = np.linspace(0, whole, int(np.clip(whole, 1, MAX_BINS)) + 1)
    rows_S = made["rows"].to_numpy()
    written_E = np.array([(rows_S * _part(edge, from_S, to_S)).sum() for edge in edges_E])
    starts = _at_work(np.unique(first_S), start_W, stop_W)
    return Throughput(
        edges_E,
        np.diff(written_E) / np.diff(edges_E),
        tuple(starts.tolist()),
        int(rows_S.sum()),
        float(start_W[0]),
        float(stop_W[-1]),
    )


def _windows(first_S: Floats, stop_S: Floats) -> tuple[Floats, Floats]:
    """Returns the windows of work: an attempt is at work from its start to its last shard."""
    attempts = pa.table({"first": first_S, "stop": stop_S}).group_by("first").aggregate([("stop", "max")])
    attempts = attempts.sort_by("first")
    first_W, stop_W = attempts["first"].to_numpy(), np.maximum.accumulate(attempts["stop_max"].to_numpy())
    opens = np.r_[True, first_W[1:] > stop_W[:-1]]
    closes = np.r_[opens[1:], True]
    return first_W[opens], stop_W[closes]


def _at_work(times: Floats, start_W: Floats, stop_W: Floats) -> Floats:
    """Converts times into seconds at work, with all windows one behind the other."""
    lasted_W = stop_W - start_W
    window = np.clip(np.searchsorted(start_W, times, "right") - 1, 0, None)
    within = np.minimum(times - start_W[window], lasted_W[window])
    return np.asarray((np.cumsum(lasted_W) - lasted_W)[window] + within)


def _part(edge: float, from_S: Floats, to_S: Floats) -> Floats:
    """Returns the fraction of each shard that was done at a time."""
    return np.asarray(np.clip((edge - from_S) / np.maximum(to_S - from_S, 1e-9), 0, 1))


def histogram(values: npt.NDArray[Any], bins: int = 24) -> Histogram:
    """Counts whole numbers from 0 on in at most `bins` + 1 round bins; fewer if all are close together."""
    if not len(values):
        return Histogram(np.array([0.0, 1.0]), np.zeros(1, np.int64))
    step = max(round_step((int(values.max()) + 1) / bins), 1.0)
    index = (values // step).astype(np.int64)
    first = int(index.min())
    counts_B = np.bincount(index - first)
    edges_E = step * np.arange(first, first + len(counts_B) + 1, dtype=np.float64)
    return Histogram(np.asarray(edges_E, np.float64), counts_B.astype(np.int64))


def _lengths(lists: pa.ChunkedArray) -> Ints:
    lengths: Ints = pc.list_value_length(lists).to_numpy().astype(np.int64)
    return lengths


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
