"""Chooses the round numbers at an axis."""

import math

from pipeline.humanize import short, time_unit

Tick = tuple[float, str]


def ticks(most: float, about: int = 5, least: float = 0.0) -> list[Tick]:
    """Returns about `about` round values from 0 to `most`, at least `least` apart."""
    step = max(round_step(most / about), least)
    return [(number * step, short(number * step)) for number in range(int(most / step + 1e-9) + 1)]


def time_ticks(seconds: float, about: int = 6) -> tuple[str, list[Tick]]:
    """Returns the unit of a time axis, and its ticks."""
    unit, name = time_unit(seconds)
    return name, [(value * unit, told) for value, told in ticks(seconds / unit, about)]


def round_step(least: float) -> float:
    """Returns the first of 1, 2, 5, 10 times a power of ten that is not below `least`; 1 if that is 0."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
