"""Estimates how many tokens texts have, from a sample weighted by what each stratum stands for. Pure.

Shapes: R rows of a sample that would be computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import schema
from pipeline.estimate.sampling import Stratum
from pipeline.ragged import Ints

PADDED_BATCH = 32
"""Texts of a batch in input order, padded to its longest, that our batches are compared with."""


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens of the rows that would be computed, each stratum by its weight.

    p50, p95: the least length that 50 % or 95 % of the rows do not exceed.
    histogram: the fraction of the rows in each bucket, by its upper bound, up to the longest.
    padded: tokens that batches of `PADDED_BATCH` would compute, divided by the actual tokens.
    """

    mean: float
    p50: int
    p95: int
    longest: int
    truncated: float
    histogram: Mapping[int, float]
    padded: float


def distribution(strata: Sequence[Stratum]) -> Tokens | None:
    """Returns the lengths of the rows of all strata; None if there are none."""
    lengths_R = np.concatenate([np.zeros(0, np.int64), *(each.lengths for each in strata)])
    if not len(lengths_R):
        return None
    weights_R = np.concatenate([np.full(len(each.lengths), each.weight) for each in strata])
    truncated_R = np.concatenate([each.truncated for each in strata])
    total = weights_R.sum()
    useful = float(weights_R @ lengths_R)
    padded = sum(each.weight * padded_tokens(each.lengths) for each in strata)
    return Tokens(
        mean=useful / total,
        p50=_quantile(lengths_R, weights_R, 0.5),
        p95=_quantile(lengths_R, weights_R, 0.95),
        longest=int(lengths_R.max()),
        truncated=float(weights_R @ truncated_R / total),
        histogram=_histogram(lengths_R, weights_R),
        padded=padded / useful,
    )


def padded_tokens(lengths_R: Ints, batch: int = PADDED_BATCH) -> int:
    """Counts the tokens that batches in this order compute, each padded to its longest."""
    batches = (lengths_R[start : start + batch] for start in range(0, len(lengths_R), batch))
    return int(sum(len(each) * each.max() for each in batches))


def _quantile(lengths_R: Ints, weights_R: npt.NDArray[np.float64], part: float) -> int:
    order = np.argsort(lengths_R, kind="stable")
    reached = np.cumsum(weights_R[order])
    # Slightly less, so that weights that add up to the part exactly do not exceed it by rounding.
    return int(lengths_R[order][np.searchsorted(reached, part * reached[-1] * (1 - 1e-9))])


def _histogram(lengths_R: Ints, weights_R: npt.NDArray[np.float64]) -> dict[int, float]:
    bounds = np.array(schema.TOKEN_BUCKETS)
    sums = np.bincount(np.searchsorted(bounds, lengths_R), weights_R)
    return {int(bound): float(each / weights_R.sum()) for bound, each in zip(bounds, sums, strict=False)}
