"""Tests of ids: nulls and repetitions are counted exactly, in memory or on disk; a run may refuse them."""

import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.dataset import identifiers
from pipeline.dataset.identifiers import digests, id_columns, ids_of, repeats
from pipeline.driver.run import run
from pipeline.estimate.estimate import forecast
from pipeline.verify.verify import verify

Job = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("in_memory", [1 << 20, 100])
def test_repetitions_are_counted_wherever_they_are(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(identifiers, "IN_MEMORY", in_memory)
    chance = np.random.default_rng(0)
    ids = chance.integers(0, 3000, 5000)
    with repeats() as found:
        for part in np.array_split(ids, 37):
            found.add(digests(pa.chunked_array([pa.array(part)]), "docs"))
        assert any(found.folder.iterdir()) == (in_memory == 100)
        assert found.count() == len(ids) - len(np.unique(ids))
    assert not found.folder.exists()


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 2**63 - 1, 2], ["a", "ä", "", "a"], [b"\xff", b"a", b"b", b"a"], [0.1, 0.2, 1e300, 0.2],
        [datetime.date(2026, 1, day) for day in (1, 2, 3, 1)],
        [decimal.Decimal(n) for n in ("1.5", "2.0", "3", "2")],
        [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 1}], [[1], [], [2], [1]], [True, False],
    ],
)  # fmt: skip
def test_ids_of_any_type(values: list[Any]) -> None:
    found = digests(pa.chunked_array([pa.array(values)]), "docs")
    equal = [(found[i] == found[j]).all() for i in range(len(values)) for j in range(i)]
    assert equal == [values[i] == values[j] for i in range(len(values)) for j in range(i)]


def test_sources_and_windows_of_a_text_repeat_nothing() -> None:
    ids = pa.chunked_array([pa.array(["a", "b"])])
    assert not (digests(ids, "one") == digests(ids, "two")).any()
    rows = pa.table({"key": ["a", "a", None, None], "chunk": [0, 1, 0, 1]})
    found = ids_of(rows, "docs", "key")
    assert (found.nulls, len(found.digests)) == (1, 1)
    assert len(ids_of(rows, "docs", None).digests) == 0
    fields = {"source.a.id_column": "meta.id", "source.b.id_column": None, "source.a.text_column": "text"}
    assert id_columns(fields) == {"a": "meta_id"}


def with_ids(corpus: Path, ids: list[int | None]) -> None:
    path = corpus / "0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "key", pa.array([*ids, *range(len(ids), 20)], pa.int64())), path)


@pytest.mark.usefixtures("flow")
def test_ids_are_counted_by_plan_summary_and_verify(job: Job, corpus: Path) -> None:
    """Row 0 has no id, row 1 that of a row of another file, row 2 that of row 3."""
    with_ids(corpus, [None, 40, 3])
    [seen] = forecast(parse_config(job())).sample.strata
    assert (seen.null_ids, seen.repeated_ids) == (1, 2)
    found = forecast(parse_config(job()))
    assert [each.kind for each in found.cautions] == ["bad_ids"]
    ending = run(parse_config(job()))
    assert (ending.code, ending.summary["null_ids"]) == (0, 1)
    report = verify(ending.output)
    assert report.findings == []
    [check] = [each for each in report.checks if each.name == "duplicates"]
    assert (check.figures["null ids"], check.figures["repeated ids"]) == (1, 2)
    assert any("1 rows have no id, and 2 the id of another row" in note for note in report.notes)


@pytest.mark.usefixtures("flow")
@pytest.mark.parametrize(("ids", "code"), [([], 0), ([None], 3), ([1, 1], 3), ([59], 3)])
def test_ids_that_must_be_unique(job: Job, corpus: Path, ids: list[int | None], code: int) -> None:
    with_ids(corpus, ids)
    ending = run(parse_config(job(quality={"unique_ids": True})))
    assert ending.code == code
    assert ("quality.unique_ids does not allow" in ending.reason) == bool(code)
    assert (Path(ending.output) / "data" / "_SUCCESS").exists() == (not code)
    if code:  # without the demand, the same shards are committed
        assert run(parse_config(job())).code == 0
    else:
        assert (ending.summary["null_ids"], ending.summary["repeated_ids"]) == (0, 0)
