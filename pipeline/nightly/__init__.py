"""A series: datasets of one job side by side, a folder for each run date, and LATEST.json, which says whom
readers follow.

LATEST.json is only ever replaced over the version that was read (compare-and-swap): an older run never moves
it back, and no run moves one that is pinned. What readers follow is never removed. To look at a dataset costs
three small requests, whatever its size; to roll back to it or to prune it, a listing besides.
"""

from pipeline.nightly.latest import DatasetFacts, Latest
from pipeline.nightly.members import SeriesEntry
from pipeline.nightly.prune import PruneDecision
from pipeline.nightly.series import Series, series_folder

__all__ = ["DatasetFacts", "Latest", "PruneDecision", "Series", "SeriesEntry", "series_folder"]
