"""How a figure of several runs is told."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], form: str) -> str:
    """Their median, and the least to the most, each in this format."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
