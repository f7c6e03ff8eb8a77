"""Formats figures for people: counts, sizes, durations and shares, the same way everywhere."""

from collections.abc import Sequence

Units = Sequence[tuple[float, str]]
SIZES: Units = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
DURATIONS: Units = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms"))
CLOCK = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s"))


def count(value: float) -> str:
    """Returns all digits, in groups of three."""
    return f"{value:,.0f}"


def plural(number: int, noun: str) -> str:
    """Returns a count with its noun: `1 file`, `2 files`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def short(value: float) -> str:
    """Returns a few digits: 950, 1.2k, 34M."""
    value = _rounded(value)
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{_digits(value / unit)}{name}"
    return f"{value:.3g}"


def size(stored: float) -> str:
    """Returns bytes in the largest decimal unit of which there is at least one."""
    stored = _rounded(stored)
    unit, name = _size_unit(stored)
    return f"{_digits(stored / unit)} {name}" if name else plural(round(stored), "byte")


def size_of(part: float, whole: float) -> str:
    """Returns a part of some bytes and the total, in the unit of the total: `1.2/3.4 GB`."""
    unit, name = _size_unit(_rounded(whole))
    return f"{_digits(round(part / unit, 2))}/{_digits(whole / unit)} {name or 'bytes'}"


def duration(seconds: float) -> str:
    """Returns a measured or estimated time in the largest unit of which there are two: `90 s`, `2.5 h`."""
    seconds = _rounded(seconds)
    unit, name = time_unit(seconds)
    return f"{_digits(seconds / unit)} {name}" if seconds else "0 s"


def time_unit(seconds: float) -> tuple[float, str]:
    """Returns the largest unit of which there are two (for seconds: one), and its name."""
    return next(
        (each for each in DURATIONS if seconds >= (1 if each[1] == "s" else 2) * each[0]), DURATIONS[-1]
    )


def clock(seconds: float | None) -> str:
    """Returns a running time, to the second: `45s`, `1m34s`, `2h05m`, `3d04h`; `?` if not known.

    A live display uses it: the three digits of `duration` would not change for a minute or more.
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    for unit, name, part, part_name in CLOCK:
        if whole >= unit:
            return f"{whole // unit}{name}{whole % unit // part:02d}{part_name}"
    return f"{whole}s"


def share(part: float, whole: float) -> str:
    """Returns a part in per cent; a part that exists never reads 0 %, and an incomplete one never 100 %."""
    per_cent = 100 * part / whole if whole else 0.0
    if 0 < per_cent < 0.1:
        return "< 0.1 %"
    if 99.9 < per_cent < 100:
        return "> 99.9 %"
    return f"{per_cent:.1f} %"


def first_few(lines: Sequence[str], most: int = 20, hint: str = "") -> list[str]:
    """Returns the first `most` lines, and one that says how many more there are."""
    more = [f"and {len(lines) - most:,} more{hint}"] if len(lines) > most else []
    return [*lines[:most], *more]


def named(items: Sequence[str], separator: str = "; ", most: int = 3) -> str:
    """Returns the first `most` items in one line, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def and_more(number: int) -> str:
    """Returns what follows the first of several: ` (and 3 more)`; empty if there are no more."""
    return f" (and {number} more)" if number > 0 else ""


def bar(part: float, whole: float, width: int) -> str:
    """Returns a bar that is `width` characters long if the part is the whole."""
    return "#" * round(width * part / whole)


def _size_unit(stored: float) -> tuple[float, str]:
    """Returns a unit and its name; 1 and an empty name for less than a kilobyte."""
    return next((each for each in SIZES if stored >= each[0]), (1.0, ""))


def _rounded(value: float) -> float:
    """Rounds to three digits, before a unit is chosen: 999,999 bytes are 1 MB, not 1,000 kB."""
    return float(f"{value:.3g}")


def _digits(value: float) -> str:
    """Returns three digits, and more only before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
