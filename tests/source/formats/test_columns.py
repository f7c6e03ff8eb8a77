"""Tests of the values of JSON that become strings: what is written is JSON, and loses nothing."""

import json
import math
from pathlib import Path

import pytest

from pipeline.config.source import Source
from pipeline.source.formats.columns import text_of
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


def test_nested_nan_is_carried_as_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "o": {"v": NaN}}\n{"text": "b", "o": {"v": 1}}\n')
    found = documents(path, Source(path="a.jsonl", carry=("o",)))
    assert [strictly(each) for each in found.rows["o"].to_pylist()] == [{"v": "NaN"}, {"v": 1}]
