"""Feeds a plan to Ray Data: one row per scan, in blocks that are neither too many nor too large."""

import logging
import math

import ray
from ray.data import DataContext, Dataset

from pipeline.plan.plan import Plan
from pipeline.plan.scan_row import feed_row

SINGLE_BLOCKS = 2000
"""The most scans of which each gets its own block, which spreads best; with more, blocks cost too much."""
SPLITS_PER_BLOCK = 8
MAX_BLOCKS = 20_000
NEVER = -1.0
"""A utilization that no pool falls to."""


def feed(pending: Plan, block_bytes: int) -> Dataset:
    """Returns the splits of a plan as a dataset whose later blocks have `block_bytes`."""
    set_context(block_bytes)
    rows = [feed_row(scan) for scan in pending.scans()]
    per_block = 1 if len(rows) <= SINGLE_BLOCKS else max(SPLITS_PER_BLOCK, len(rows) // MAX_BLOCKS)
    return ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / per_block))


def set_context(block_bytes: int) -> None:
    """Sets the options that all our graphs need; a dataset keeps those that are set when it is created."""
    context = DataContext.get_current()
    context.target_max_block_size = block_bytes
    # Ray Data's bars and chatter would bury our own progress.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # it counts shards; our watchdog hears micro-batches
    # A replica stays until nothing is left to read. By default Ray ends idle ones, one at each look: if the
    # nodes of many have just come, most would go before the readers have splits for them.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = NEVER
    logging.getLogger("ray.data").setLevel(logging.WARNING)
