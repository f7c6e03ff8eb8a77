"""Tests faults of a cluster in mid-run, in jobs from S3 to S3 by `ray job submit`.

`pytest -m slow -s tests/faults/test_operation.py` prints the table of docs/operations.md; FAULTS in the
environment ("job stopped,poisoned split") picks some of them.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config.location import Options
from tests.clusters import Cluster, cluster
from tests.conftest import texts, write_config
from tests.faults.poison import KILL, runtime
from tests.s3.server import Server, environment

ROWS, ROWS_PER_FILE, ROWS_PER_SHARD = 300, 100, 5
ROUNDS = 5
SPLITS = ROWS // ROWS_PER_SHARD
PACE = "0.2"
"""The least seconds that a split takes: enough time for `ray job stop` to arrive before the end."""
POISONED = 150
"""The row whose text kills every process that touches it."""


@dataclass
class Site:
    """A cluster, a store with a corpus, and the jobs that were submitted."""

    ray: Cluster
    server: Server
    folder: Path
    values: dict[str, Any]
    jobs: int = 0
    said: str = ""
    encoded: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> storage.Storage:
        return storage.connect("s3://corpus", Options(endpoint_url=self.server.url))

    def submit(self, output: str, corpus: str = "clean") -> int:
        """Submits a job as a user does, waits for its end, and returns its exit code as Ray reports it."""
        self.jobs += 1
        witness = self.folder / f"{self.jobs}.encoded"
        source = self.values["source"]["docs"] | {"path": f"s3://corpus/{corpus}/*.parquet"}
        written = {"path": output, "rows_per_shard": ROWS_PER_SHARD}
        config = write_config(
            self.folder / f"{self.jobs}.json", self.values | {"source": {"docs": source}, "output": written}
        )
        ended = self.ray.submit(
            "--working-dir", ".", "--submission-id", f"job{self.jobs}",
            f"--runtime-env-json={runtime(WITNESS=str(witness), PACE=PACE)}",
            "--", "python", "-m", "jobs.embed", str(config),
        )  # fmt: skip
        self.said = self.ray.said(f"job{self.jobs}")
        if witness.exists():
            self.encoded.update(witness.read_text().split())
        return ended.returncode

    def shards(self, output: str) -> int:
        """Returns the number of shards of a dataset."""
        try:
            return len(self.store.list_files(f"{output}/data"))
        except OSError:
            return 0

    def rows(self, output: str) -> pa.Table:
        """Returns all rows of a complete dataset."""
        found = self.store.list_files(f"{output}/data")
        tables = [
            pq.read_table(pa.BufferReader(self.store.read(info.path)))
            for name, info in found.items()
            if name.endswith(".parquet")
        ]
        return pa.concat_tables(tables).sort_by("key")


def _kill_a_replica(site: Site) -> None:
    for replica in site.ray.workers("MapWorker"):
        replica.kill()


def _kill_a_node(site: Site) -> None:
    site.ray.kill(site.ray.nodes[-1])


def _kill_the_driver(site: Site) -> None:
    for driver in site.ray.workers("jobs.embed"):
        driver.kill()


def _kill_the_server(site: Site) -> None:
    site.server.kill()
    time.sleep(3)
    site.server.start()


def _stop_the_job(site: Site) -> None:
    site.ray.ray("job", "stop", f"--address={site.ray.url}", f"job{site.jobs}")


def _nothing(_: Site) -> None:
    """Does nothing: the other faults are compared with this one, and a poisoned corpus needs no more."""


FAULTS: dict[str, Callable[[Site], None]] = {
    "nothing": _nothing, "replica killed": _kill_a_replica, "node killed": _kill_a_node,
    "driver killed": _kill_the_driver, "store killed for 3 s": _kill_the_server, "job stopped": _stop_the_job,
    "poisoned split": _nothing,
}  # fmt: skip
RESUBMITTED = ("driver killed", "job stopped")
WANTED = os.environ.get("FAULTS", ",".join(FAULTS)).split(",")


@pytest.fixture
def site(tmp_path: Path, job: Any) -> Iterator[Site]:
    with ExitStack() as stack:
        server = Server(tmp_path)
        stack.callback(server.kill)
        server.start()
        ray = stack.enter_context(cluster(tmp_path / "ray.log", 0, (2, 2), environment(server.url)))
        found = Site(ray, server, tmp_path, job())
        for bucket in ("s3://corpus", "s3://out"):
            found.store.filesystem.mkdir(bucket)
        _put_corpora(found)
        yield found


def _put_corpora(site: Site) -> None:
    for corpus in ("clean", "poisoned"):
        for first in range(0, ROWS, ROWS_PER_FILE):
            lines = texts(ROWS_PER_FILE, first)
            if corpus == "poisoned" and first <= POISONED < first + ROWS_PER_FILE:
                lines[POISONED - first] += f" {KILL}"
            keys = list(range(first, first + ROWS_PER_FILE))
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"key": keys, "text": lines, "topic": ["t"] * ROWS_PER_FILE}), sink)
            site.store.put(f"s3://corpus/{corpus}/{first:03}.parquet", bytes(sink.getvalue()))


@pytest.mark.timeout(3600)
@pytest.mark.slow
def test_whatever_happens_rows_are_exact(site: Site) -> None:
    chance, table = random.Random(ROUNDS), []
    truth = None
    for number in range(ROUNDS):
        for name, fault in FAULTS.items():
            if name not in WANTED or (number and name == "nothing"):
                continue
            code, late = None, 0
            while code is None:  # the job was done before the fault came, so that was not a try
                output = f"s3://out/{number}-{name.replace(' ', '-')}-{late}"
                site.encoded.clear()
                started = time.monotonic()
                code = _strike(site, output, name, chance.uniform(0, 2) / 2**late)
                late += 1
                assert late < 5, site.said
            table.append((name, time.monotonic() - started, site.encoded.total() - len(site.encoded)))
            print(table[-1], flush=True)
            found = site.rows(output)
            if name == "poisoned split":
                assert code == 1, site.said
                assert "exit 3: 1 of the source's files failed: docs/100.parquet" in site.said, site.said
                lost = range(POISONED, POISONED + ROWS_PER_SHARD)
                assert found["key"].to_pylist() == [key for key in range(ROWS) if key not in lost]
                continue
            assert code == 0, site.said
            truth = truth or found
            assert found["key"].to_pylist() == list(range(ROWS))
            assert found["embedding"] == truth["embedding"]
            if fault is _kill_a_node:
                site.ray.add_worker(2)
    _print(table)


def _strike(site: Site, output: str, name: str, pause: float) -> int | None:
    """Submits a job, applies a fault once it has shards, and submits it again if the fault ended it.

    It returns the last exit code; None if all shards existed before the fault.
    """
    ended: list[int] = []
    corpus = "poisoned" if name == "poisoned split" else "clean"
    waiting = threading.Thread(target=lambda: ended.append(site.submit(output, corpus)))
    waiting.start()
    while waiting.is_alive() and site.shards(output) < 5:
        time.sleep(0.1)
    time.sleep(pause)
    if FAULTS[name] is not _nothing and site.shards(output) >= SPLITS:
        waiting.join()
        return None
    FAULTS[name](site)
    waiting.join()
    if name not in RESUBMITTED:
        return ended[0]
    if name == "job stopped":  # in time, since Ray kills after three seconds; for the stop it reports 0
        assert site.said.rstrip().endswith("exit 4: stopped; run again to resume"), site.said
    return site.submit(output, corpus)


def _print(table: list[tuple[str, float, int]]) -> None:
    plain = [seconds for name, seconds, _ in table if name == "nothing"]
    usual = sum(plain) / len(plain) if plain else 0
    print(f"\nof {SPLITS} splits; without a fault {usual:.0f} s\n")
    print("| fault | tries | recovered | extra time | splits done twice |")
    print("|---|---|---|---|---|")
    for fault in WANTED:
        tries = [(seconds, twice) for name, seconds, twice in table if name == fault]
        extra = sorted(seconds - usual for seconds, _ in tries)
        twice = sorted(twice for _, twice in tries)
        print(
            f"| {fault} | {len(tries)} | {len(tries)} | {extra[0]:.0f} to {extra[-1]:.0f} s "
            f"| {twice[0]} to {twice[-1]} |"
        )
