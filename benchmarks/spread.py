"""Formats a figure of several runs."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], form: str) -> str:
    """Formats the median, and the least to the most."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
