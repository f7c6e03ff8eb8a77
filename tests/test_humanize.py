"""Checks figures for people: each value reads the same everywhere."""

import pytest

from pipeline import humanize


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (humanize.count(1234567), "1,234,567"), (humanize.short(1234567), "1.23M"),
        (humanize.short(999_999), "1M"), (humanize.short(-0.25), "-0.25"), (humanize.short(2e15), "2,000T"),
        (humanize.plural(1, "file"), "1 file"), (humanize.plural(2000, "file"), "2,000 files"),
        (humanize.share(1, 10**6), "< 0.1 %"), (humanize.share(10**6 - 1, 10**6), "> 99.9 %"),
        (humanize.share(0, 0), "0.0 %"),
        (humanize.first_few(["a", "b"], 2), ["a", "b"]),
        (humanize.first_few(["a"] * 1001, 1), ["a", "and 1,000 more"]),
        (humanize.and_more(0), ""), (humanize.and_more(3), " (and 3 more)"),
        (humanize.bar(1, 4, 40), "#" * 10), (humanize.bar(1, 1000, 40), ""),
    ],
)  # fmt: skip
def test_numbers_read_well(told: object, wanted: object) -> None:
    assert told == wanted


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (0.0859, "85.9 ms"), (0.4, "400 ms"), (90, "90 s"), (119, "119 s"), (119.7, "2 min"),
        (120, "2 min"), (7200, "2 h"), (400_000, "4.63 d"), (2e8, "2,315 d"),
    ],
)  # fmt: skip
def test_durations_are_told_in_the_unit_that_reads_best(seconds: float, said: str) -> None:
    assert humanize.duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "?"), (0, "0s"), (59.4, "59s"), (94, "1m34s"), (7500, "2h05m"), (90_000, "1d01h")],
)
def test_a_clock_tells_seconds_as_long_as_they_matter(seconds: float | None, shown: str) -> None:
    assert humanize.clock(seconds) == shown


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"), (1, "1 byte"), (17, "17 bytes"), (999, "999 bytes"), (1000, "1 kB"),
        (999_999, "1 MB"), (11_009_445, "11 MB"), (12_345_678, "12.3 MB"), (5e15, "5 PB"), (5e18, "5,000 PB"),
    ],
)  # fmt: skip
def test_bytes_are_told_in_the_largest_unit(count: float, said: str) -> None:
    assert humanize.size(count) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (1.2e9, 3.4e9, "1.2/3.4 GB"),
        (150, 3.4e9, "0/3.4 GB"),
        (15, 170, "15/170 bytes"),
        (5e5, 1e6, "0.5/1 MB"),
    ],
)
def test_a_part_is_told_in_the_unit_of_the_whole(part: float, whole: float, said: str) -> None:
    assert humanize.size_of(part, whole) == said


def test_the_first_of_many_are_named_in_a_line() -> None:
    assert humanize.named(["a", "b"]) == "a; b"
    assert humanize.named(["a", "b", "c"], ", ") == "a, b, c"
    assert humanize.named(list("abcde")) == "a; b; c and 2 more"
