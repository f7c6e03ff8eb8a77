"""Runs every schedule of the commit protocol, within bounds: drivers, late workers, prune, rollback, crashes.

The project's own code runs over a storage in memory (`world`). At each request another actor may go on, the
process may die, or the answer may be lost. `scenarios` has the actors and the state in which they begin.
`protocol` has the rules:

- a complete dataset has each row once, or names the file that failed; manifest and summary fit its shards;
- nothing changes after `_SUCCESS`, unless a prune has said that it removes the dataset;
- runs never take readers back, and a rollback that fails leaves them no further back than a night took them;
- if a process dies at any point, one undisturbed run completes the dataset, with exact rows.

Each test prints what it has explored. The full bounds take an hour of one core or more: `-m slow`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pipeline.dataset import commit
from pipeline.dataset.dataset import Dataset
from tests.model_check.protocol import Table, table
from tests.model_check.scenarios import ALL, SCENARIOS
from tests.model_check.world import Bounds, Found

LONG = ("a prune between two drivers",)
MOST = 2000
"""Schedules of each larger exploration, which would take hours to complete: the deepest come first."""
FIRST = "two drivers commit"
LARGER = {
    "orders": Bounds(2, schedules=MOST),
    "faults": Bounds(0, ALL, 2, schedules=MOST),
    "both": Bounds(1, ALL, schedules=MOST),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    with table(tmp_path_factory.mktemp("model") / "sources") as made:
        yield made


def told(name: str, bounds: Bounds, found: Found) -> str:
    """Formats what was explored, and each fault with the schedule that shows it."""
    kinds = f", one of {', '.join(bounds.faults)}" if bounds.faults else ""
    seen = f"{found.schedules} schedules, {found.states} states, {found.requests} requests, {found.ends} ends"
    line = (
        f"{name}, {bounds.preemptions} preemptions{kinds}: {seen}{', cut short' if found.cut_short else ''}"
    )
    wrong = (f"{what}:\n    " + "\n    ".join(trace) for what, trace in found.violations.items())
    return "\n".join([line, *wrong])


def hold(shared: Table, name: str, bounds: Bounds) -> None:
    found = SCENARIOS[name].explore(shared, bounds)
    print(told(name, bounds, found))
    assert not found.violations, told(name, bounds, found)
    assert found.schedules > 1
    assert not found.cut_short or bounds.schedules == MOST


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == FIRST else pytest.mark.full)
        for name in SCENARIOS
        if name not in LONG
    ],
)
def test_the_protocol_holds_in_each_order(shared: Table, name: str) -> None:
    hold(shared, name, Bounds(preemptions=1))


@pytest.mark.full
@pytest.mark.parametrize("name", ["two drivers commit", "a worker of a killed driver is late"])
def test_the_protocol_holds_wherever_one_dies_or_is_not_answered(shared: Table, name: str) -> None:
    hold(shared, name, Bounds(preemptions=0, faults=ALL))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("bounds", LARGER.values(), ids=LARGER)
def test_the_protocol_holds_in_larger_bounds(shared: Table, name: str, bounds: Bounds) -> None:
    hold(shared, name, bounds)


def test_it_sees_a_summary_that_is_written_again(shared: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(dataset: Dataset, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        path = dataset.layout.summary
        dataset.storage.replace(path, json.dumps(summary).encode(), dataset.storage.version(path))
        return summary

    monkeypatch.setattr(commit, "write_summary", again)
    with pytest.raises(AssertionError, match="summary.json changed after _SUCCESS"):
        hold(shared, "two drivers commit", Bounds(1))


def test_it_sees_a_prune_that_does_not_say_so(shared: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dataset, "begin_removal", lambda _: True)
    with pytest.raises(AssertionError, match="_SUCCESS is left in a removed dataset"):
        hold(shared, "a prune beside a driver that slept", Bounds(1))
