"""Numbers as a person reads them, and the round ones that stand at an axis."""

import math

Tick = tuple[float, str]
UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms"))
SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def count(value: float) -> str:
    """All its digits, in groups of three."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """A few digits: 950, 1.2k, 34M."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """In the largest unit of which there are two, but seconds from the first one on."""
    unit, name = _unit(seconds)
    return f"{seconds / unit:.3g} {name}" if seconds else "0 s"


def size(stored: float) -> str:
    """Bytes, in decimal units."""
    for unit, name in SIZES:
        if stored >= unit:
            return f"{stored / unit:.3g} {name}"
    return f"{stored:.0f} bytes"


def share(part: float, whole: float) -> str:
    """Of a whole, in per cent; what is there never reads 0 %, and what lacks a part never 100 %."""
    per_cent = 100 * part / whole if whole else 0.0
    if 0 < per_cent < 0.1:
        return "< 0.1 %"
    if 99.9 < per_cent < 100:
        return "> 99.9 %"
    return f"{per_cent:.1f} %"


def ticks(most: float, about: int = 5, least: float = 0.0) -> list[Tick]:
    """Round values from 0 to `most`, some `about` of them, `least` apart or more."""
    step = max(round_step(most / about), least)
    return [(number * step, short(number * step)) for number in range(int(most / step + 1e-9) + 1)]


def time_ticks(seconds: float, about: int = 6) -> tuple[str, list[Tick]]:
    """The unit of an axis of time, and its ticks."""
    unit, name = _unit(seconds)
    return name, [(value * unit, told) for value, told in ticks(seconds / unit, about)]


def _unit(seconds: float) -> tuple[float, str]:
    return next((each for each in UNITS if seconds >= (1 if each[1] == "s" else 2) * each[0]), UNITS[-1])


def round_step(least: float) -> float:
    """The first of 1, 2, 5, 10, ... times a power of ten that is not below `least`; 1 where that is 0."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
