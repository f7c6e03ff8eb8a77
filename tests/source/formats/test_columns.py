"""Tests of the values of JSON that become strings: what is written is JSON, and loses nothing."""

import json
import math
from pathlib import Path

import pytest

from pipeline.config.source import Source
from pipeline.source.formats.columns import Fraction, fraction, text_of
from tests.source.formats.test_rows_of_text_formats import documents, write


def strictly(text: str) -> object:
    """Reads JSON, and fails over what JSON does not have."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"v": math.nan}, {"v": "NaN"}),
        ({"v": [math.inf, {"w": -math.inf}], "a": "ä"}, {"v": ["Infinity", {"w": "-Infinity"}], "a": "ä"}),
        ([1, None, True, 2**70], [1, None, True, 2**70]),
    ],
)  # fmt: skip
def test_numbers_that_json_lacks_become_strings(value: object, expected: object) -> None:
    assert strictly(text_of(value)) == expected


@pytest.mark.parametrize(
    ("written", "fits"),
    [
        ("1.10", True), ("-0.000120", True), ("1E5", True), ("0.10000000000000001", True), ("1e400", False),
        ("123456789012345678901234567890.12", False), ("0.123456789012345678", False),
        ("1.234567890123456789e-99999999999999999999", False), ("1." + "0" * 5000, True),
    ],
)  # fmt: skip
def test_a_number_knows_whether_a_float_holds_it(written: str, fits: bool) -> None:
    found = fraction(written)
    assert isinstance(found, Fraction)
    assert (found.fits, text_of(found), text_of({"v": [found]})) == (fits, written, f'{{"v": [{written}]}}')


def test_a_number_that_python_writes_alike_stays_a_float() -> None:
    assert [fraction(each) for each in ("1.5", "-0.25", "1e-07")] == [1.5, -0.25, 1e-07]


def test_nested_nan_is_carried_as_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "o": {"v": NaN}}\n{"text": "b", "o": {"v": 1}}\n')
    found = documents(path, Source(path="a.jsonl", carry=("o",)))
    assert [strictly(each) for each in found.rows["o"].to_pylist()] == [{"v": "NaN"}, {"v": 1}]
