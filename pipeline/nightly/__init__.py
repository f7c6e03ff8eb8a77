"""Manages a series: datasets of one job side by side, a folder for each run date, and LATEST.json.

LATEST.json names the dataset that readers follow. It is only replaced if it still has the version that was
read (compare-and-swap): an older run never moves it back, and no run moves a pinned one. The dataset that
readers follow is never removed. Inspecting a dataset costs three small requests, whatever its size; rolling
back to it or pruning it also costs a listing.
"""

from pipeline.nightly.latest import DatasetFacts, Latest
from pipeline.nightly.members import SeriesEntry
from pipeline.nightly.prune import PruneDecision
from pipeline.nightly.series import Series, series_folder

__all__ = ["DatasetFacts", "Latest", "PruneDecision", "Series", "SeriesEntry", "series_folder"]
