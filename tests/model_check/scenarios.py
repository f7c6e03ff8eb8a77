"""Lists the scenarios: the actors that meet at a dataset, and the dataset's state when they begin."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass

from tests.model_check.protocol import LATER, NOW, SHOWN, Table
from tests.model_check.world import Actor, Bounds, Found, Stored, explore

SOON = NOW + datetime.timedelta(hours=1)
NIGHTS = ("2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24")
ALL = ("die", "lost", "refused")


@dataclass(frozen=True)
class Scenario:
    """The objects in storage, and the actors that begin."""

    setting: Callable[[Table], dict[str, Stored]]
    actors: Callable[[Table], list[Actor]]

    def explore(self, table: Table, bounds: Bounds, stop: bool = False) -> Found:
        """Runs every schedule within the bounds."""
        begin = table.start(self.setting(table), lambda: self.actors(table))
        return explore(begin, table.check, bounds, stop)


def _nothing(_: Table) -> dict[str, Stored]:
    return {}


def _unfinished(table: Table, *, shards: int = 2, nights: int = 1) -> dict[str, Stored]:
    """Returns a dataset whose driver was killed before it could commit, and complete later nights."""
    there = {f"part-{split}.parquet" for split in table.splits[:shards]}
    ends = ("manifest.parquet", "summary.json", "report.html", "_SUCCESS", "00000.parquet")
    drivers = [table.driver(f"setting{night}", night) for night in NIGHTS[:nights]]

    def unwanted(path: str) -> bool:
        name = path.removeprefix(f"{SHOWN}/{NIGHTS[0]}/")
        late = name.startswith("data/part") and name.removeprefix("data/") not in there
        return name != path and (late or name.endswith(ends))

    kept = table.setting(*drivers, without=unwanted)
    return kept if nights > 1 else {path: each for path, each in kept.items() if "LATEST" not in path}


def _four_nights(table: Table) -> dict[str, Stored]:
    """Returns four complete nights, of which readers follow the third."""
    drivers = [table.driver(f"setting{night}", night) for night in NIGHTS]
    three = table.setting(*drivers[:3])
    latest = f"{SHOWN}/LATEST.json"
    return table.setting(*drivers) | {latest: three[latest]}


SCENARIOS = {
    "two drivers begin": Scenario(_nothing, lambda table: [table.driver("A"), table.driver("B")]),
    "two drivers commit": Scenario(_unfinished, lambda table: [table.driver("A"), table.driver("B")]),
    "a split fails in one of two drivers": Scenario(
        lambda table: _unfinished(table, shards=1),
        lambda table: [table.driver("A", fails=1), table.driver("B")],
    ),
    "one of two drivers allows no failed file": Scenario(
        lambda table: _unfinished(table, shards=1),
        lambda table: [table.driver("A", fails=1), table.driver("B", fails=1, allow_failed=False)],
    ),
    "a worker of a killed driver is late": Scenario(
        lambda table: _unfinished(table, shards=1),
        lambda table: [table.driver("A", fails=1), table.zombie("Z", 1)],
    ),
    "a prune beside a resume": Scenario(
        lambda table: _unfinished(table, nights=3),
        lambda table: [table.driver("A"), table.prune("prune", SOON)],
    ),
    "a prune beside a driver that slept": Scenario(
        lambda table: _unfinished(table, nights=3),
        lambda table: [table.driver("A"), table.prune("prune", LATER)],
    ),
    "a prune between two drivers": Scenario(
        lambda table: _unfinished(table, nights=3),
        lambda table: [table.driver("A"), table.prune("prune", LATER), table.driver("B")],
    ),
    "a rollback, a night and a prune": Scenario(
        _four_nights,
        lambda table: [
            table.rollback("rollback", NIGHTS[0]),
            table.advance(f"night {NIGHTS[3]}", NIGHTS[3]),
            table.prune("prune", LATER),
        ],
    ),
}
