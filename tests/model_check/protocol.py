"""Models the commit protocol as actors of a world (drivers, late writers, prunes, rollbacks), with its rules.

The actors run the project's own code: `driver.run`, with `Dataset`, `commit`, `Series`, prune and rollback
below it, and the stages that write shards. Only clocks, chance, pools of threads, the listing of the sources
and Ray are replaced: a driver's flow writes the shards of its pending splits one after the other.
"""

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage, telemetry
from pipeline.config.load import parse_config
from pipeline.config.sections import Config
from pipeline.dataset import writer
from pipeline.dataset.ending import RunResult
from pipeline.dataset.identity import Identity
from pipeline.dataset.layout import Layout
from pipeline.dataset.record import Failure
from pipeline.driver import attempt, run
from pipeline.embed import job
from pipeline.embed.job import Job
from pipeline.embed.read import read_scan
from pipeline.embed.row import from_row, to_row
from pipeline.embed.split import EncodedSplit, ReadSplit, SplitRows
from pipeline.errors import ExitCode, PipelineError
from pipeline.model import checkpoint
from pipeline.nightly import DatasetFacts, Series
from pipeline.nightly import latest as latest_module
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Plan
from tests.model_check.world import Actor, Bucket, Inline, ModelStorage, Stored, World
from tests.splits import scan_row, written

NOW = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.UTC)
OLD, LATER = NOW - datetime.timedelta(days=30), NOW + datetime.timedelta(days=30)
ROOT = "s3://bucket/nights"
SHOWN = ROOT.removeprefix("s3://")
OURS, ROWS = "2026-11-21", 4
SPLITS = 2
COLUMNS = ("source_file", "source_row")


def config_of(name: str, sources: Path, allow_failed: bool) -> Config:
    """Returns the config of a night."""
    values = {
        "source": {"docs": {"path": f"{sources}/*.txt"}},
        "output": {"path": f"{ROOT}/{name}", "run_date": name, "rows_per_shard": 100},
        "quality": {"allow_failed_files": allow_failed},
    }
    return parse_config(values)


@dataclass
class Table:
    """The shared parts of all scenarios: the plan of a night, its encoded splits, and the current world."""

    made: Plan
    model: checkpoint.Checkpoint
    encoded: dict[str, pa.Table]
    sources: Path
    world: World

    @property
    def splits(self) -> list[str]:
        return list(self.encoded)

    def driver(
        self, name: str, night: str = OURS, fails: int | None = None, allow_failed: bool = True
    ) -> Actor:
        """Returns a driver of a night; `fails` is a split that it can't do."""
        wanted = config_of(night, self.sources, allow_failed)
        return Actor(name, lambda: self._run(wanted, None if fails is None else self.splits[fails]))

    def _run(self, wanted: Config, failing: str | None) -> RunResult:
        self.world.here.failing = failing
        self.world.here.asked = False
        return run.run(wanted, quiet=True)

    def flow(self, pending: Plan, told: Job, _: object) -> Iterator[Any]:
        """Does what Ray would do."""
        for split_id in pending.split_ids.to_pylist():
            if split_id == getattr(self.world.here, "failing", None):
                files = tuple(piece.source_file for piece in dict(self.made.splits())[split_id])
                yield Failure(split_id, files, "read", int(ExitCode.INCOMPLETE), "it kills its process")
            else:
                yield written(self.encoded[split_id], told)

    def zombie(self, name: str, split: int) -> Actor:
        """Returns a dead driver's worker that still has a shard to write; it read dataset.json long ago."""
        wanted = config_of(OURS, self.sources, True)

        def work() -> None:
            self.world.here.asked = True
            written(self.encoded[self.splits[split]], self.job(wanted))

        return Actor(name, work)

    def job(self, wanted: Config) -> Job:
        identity = Identity.of(wanted, self.model)
        return run._job(wanted, self.model, identity, self.made, None)

    def prune(self, name: str, now: datetime.datetime, keep: int = 1) -> Actor:
        return Actor(name, lambda: Series(ROOT).prune(keep=keep, now=now))

    def rollback(self, name: str, to: str) -> Actor:
        return Actor(name, lambda: Series(ROOT).rollback(to))

    def advance(self, name: str, night: str) -> Actor:
        """Returns an actor that ends a night whose dataset is complete."""
        series = Series(ROOT)
        date = datetime.date.fromisoformat(night)
        return Actor(name, lambda: series.advance(night, date, DatasetFacts.of(series.dataset(night))))

    def setting(self, *actors: Actor, without: Callable[[str], bool] = lambda _: False) -> dict[str, Stored]:
        """Returns the objects that the actors left, one after the other, long ago, except unwanted paths."""
        self.world = World({}, OLD.timestamp())
        for actor in actors:
            self.world.here.actor = None
            actor.work()
        kept = {path: each for path, each in self.world.objects.items() if not without(path)}
        return {path: replace(each, changed=OLD.timestamp()) for path, each in kept.items()}

    def start(self, setting: dict[str, Stored], actors: Callable[[], list[Actor]]) -> Callable[[], World]:
        """Returns a function that makes a world in which the actors are about to begin."""

        def begin() -> World:
            self.world = World(setting, NOW.timestamp())
            self.world.actors = actors()
            self.watcher = Watcher(self)
            self.world.watch = [self.watcher]
            return self.world

        return begin

    def check(self, world: World) -> list[str]:
        """Returns the faults at the end, and after one more undisturbed run."""
        wrong = self.watcher.violations + ends(world)
        for actor in world.actors:
            if isinstance(actor.result, Exception) and not isinstance(actor.result, PipelineError):
                wrong.append(f"a bug: {actor.result!r}")
        return wrong or self._recovered(world)

    def _recovered(self, world: World) -> list[str]:
        self.world = World(world.objects, world.now)
        self.world.counts = dict(world.counts)
        if f"{SHOWN}/{OURS}/dataset.json" in world.objects and b"being_removed" in (
            world.objects[f"{SHOWN}/{OURS}/dataset.json"].data
        ):
            Series(ROOT).prune(keep=1, now=LATER)
        try:
            ending = self._run(config_of(OURS, self.sources, True), None)
        except Exception as error:
            return [f"an undisturbed run afterwards raises {error!r}"]
        if ending.code is not ExitCode.DONE:
            return [f"an undisturbed run afterwards ends with {ending.code!r}: {ending.reason}"]
        return [f"{what}, after an undisturbed run" for what in ends(self.world)]


class Watcher:
    """Checks each write, and reports those that change a complete dataset."""

    def __init__(self, table: Table) -> None:
        self.table, self.violations = table, list[str]()
        self.highest = ""
        self.sealed: dict[str, bytes] | None = None
        self.held(table.world)

    def __call__(self, path: str, world: World) -> None:
        actor = world.actor
        if path == f"{SHOWN}/LATEST.json" and actor:
            self._followed(json.loads(world.objects[path].data), actor)
        if path.startswith(f"{SHOWN}/{OURS}/"):
            self.held(world)

    def held(self, world: World) -> None:
        """Compares the files with those at the time of `_SUCCESS`."""
        files = held(world)
        if f"{SHOWN}/{OURS}/data/_SUCCESS" not in files or _being_removed(world):
            self.sealed = None
            return
        if self.sealed is None:
            self.sealed = files
        for path in sorted(files.keys() | self.sealed.keys()):
            if files.get(path) != self.sealed.get(path):
                name = path.removeprefix(f"{SHOWN}/{OURS}/")
                kind = "a shard" if name.startswith("data/part") else name
                self.violations.append(f"{kind} changed after _SUCCESS")
        self.sealed = files

    def _followed(self, latest: dict[str, Any], actor: Actor) -> None:
        if not actor.name.startswith("rollback"):
            if latest["dataset"] < self.highest:
                self.violations.append("a run took readers back")
            self.highest = latest["dataset"]


def _being_removed(world: World) -> bool:
    stored = world.objects.get(f"{SHOWN}/{OURS}/dataset.json")
    pruning = any(actor.name.startswith("prune") for actor in world.actors)
    return pruning and (stored is None or b"being_removed" in stored.data)


def held(world: World) -> dict[str, bytes]:
    """Returns the files of our night that a reader sees."""
    names = ("data/", "manifest.parquet", "summary.json")
    prefix = f"{SHOWN}/{OURS}/"
    return {
        path: stored.data
        for path, stored in world.objects.items()
        if path.startswith(prefix) and path.removeprefix(prefix).startswith(names)
    }


def ends(world: World) -> list[str]:
    """Returns the faults of our night, if it is marked complete, and of the dataset that readers follow."""
    wrong = []
    layout = Layout(f"{SHOWN}/{OURS}")
    if layout.success in world.objects and layout.identity in world.objects and not _being_removed(world):
        wrong += _whole(world, layout)
    gone = layout.success in world.objects and layout.identity not in world.objects
    if gone and not any(actor.dead for actor in world.actors):
        wrong.append("_SUCCESS is left in a removed dataset")
    return wrong + _readers(world)


def _whole(world: World, layout: Layout) -> list[str]:
    lacking = [path for path in (layout.manifest, layout.summary) if path not in world.objects]
    if lacking:
        return ["complete without its manifest or summary"]
    manifest = pq.read_table(pa.BufferReader(world.objects[layout.manifest].data))
    summary = json.loads(world.objects[layout.summary].data)
    shards = {
        path: stored.data for path, stored in world.objects.items() if path.startswith(f"{layout.data}/part-")
    }
    recorded = {layout.shard(split): size for split, size in zip(
        *(manifest[name].to_pylist() for name in ("split_id", "file_bytes")), strict=True
    )}  # fmt: skip
    wrong = []
    if recorded.keys() - shards.keys():
        wrong.append("complete, but shards of its manifest are missing")
    if shards.keys() - recorded.keys():
        wrong.append("complete, with a shard that is not in its manifest")
    if any(len(shards[path]) != size for path, size in recorded.items() if path in shards):
        wrong.append("its manifest has another size than a shard")
    tables = [pq.read_table(pa.BufferReader(data), columns=list(COLUMNS)) for data in shards.values()]
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    if len(set(rows)) != len(rows):
        wrong.append("a row is in it twice")
    if summary["rows"] != sum(manifest["rows"].to_pylist()) or summary["shards"] != manifest.num_rows:
        wrong.append("the summary is of another manifest")
    failed = len(summary["failed_files"])
    if len(rows) + failed * ROWS != SPLITS * ROWS:
        wrong.append(f"{len(rows)} rows and {failed} failed files")
    return wrong


def _readers(world: World) -> list[str]:
    """Checks that a failed rollback leaves readers no further back than a night had taken them."""
    path = f"{SHOWN}/LATEST.json"
    taken = [actor for actor in world.actors if actor.name.startswith("rollback")]
    if path not in world.objects or not taken or not isinstance(taken[0].result, Exception):
        return []
    latest = json.loads(world.objects[path].data)
    moved = [actor for actor in world.actors if actor.name.startswith("night") and actor.result is True]
    if moved and latest["dataset"] < moved[0].name.removeprefix("night "):
        return ["a rollback that failed took readers back over a night"]
    return []


@contextlib.contextmanager
def table(folder: Path) -> Iterator[Table]:
    """Prepares the project, with fixed clocks, chance and sources, and with the storage of a world."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SPLITS):
        lines = "".join(f"text {number} {row}\n" for row in range(ROWS))
        # Each file is larger than half a split, so no two share one.
        (folder / f"{number}.txt").write_text(lines)
    wanted = config_of(OURS, folder, True)
    model = checkpoint.resolve(wanted.model.name)
    with pytest.MonkeyPatch.context() as patch:
        bounds = wanted.output.model_copy(update={"max_split_bytes": len(lines) + 8})
        digest = Identity.of(wanted, model).dataset_digest
        made = make_plan(wanted.model_copy(update={"output": bounds}), model, digest)
        assert len(made.split_ids) == SPLITS, made.pieces
        shared = Table(made, model, {}, folder, World({}, 0.0))
        _fix(patch, shared)
        told = shared.job(wanted)
        for split in made.splits():
            for read in read_scan(scan_row([split]), told):
                shared.encoded[split[0]] = encoded(read, told.recipe.dimension(model))
        yield shared


def encoded(row: pa.Table, dimension: int) -> pa.Table:
    """Encodes a split as a replica would, with vectors of length 1."""
    split = from_row(row)
    if not isinstance(split, ReadSplit):
        return row
    vectors = np.zeros((len(split.lengths), dimension), np.float32)
    vectors[:, 0] = 1
    figures = {
        "computed_tokens": 1, "padded_tokens": 1, "encode_seconds": 0.1, "idle_seconds": 0.0,
        "read_seconds": 0.1, "tokenize_seconds": 0.1, "attempt": "a",
    }  # fmt: skip
    passed = {field.name: getattr(split, field.name) for field in fields(SplitRows)}
    return to_row(
        EncodedSplit(
            **passed | {"figures": {**split.figures, **figures}},
            outputs={"embedding": vectors},
            too_large=np.zeros(len(vectors), np.bool_),
        )
    )


class _Quiet:
    """Progress that is not shown."""

    figures = SimpleNamespace(sums=dict)

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "_Quiet":
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(self, _: object) -> None: ...

    def stand(self, *_: object) -> None: ...


def _fix(patch: pytest.MonkeyPatch, shared: Table) -> None:
    """Replaces the parts of the project that use clocks, chance, threads or Ray."""
    bucket = ModelStorage(Bucket(lambda: shared.world))
    real = storage._connect
    patch.setattr(
        storage, "_connect", lambda protocol, *more: bucket if protocol == "s3" else real(protocol, *more)
    )
    patch.setattr(run, "usable_checkpoint", lambda _: shared.model)
    patch.setattr(run.on_ray, "refuse_private_output", lambda *_: None)
    patch.setattr(run.on_ray, "cluster", contextlib.nullcontext)
    patch.setattr(run.on_ray, "run", shared.flow)
    patch.setattr(run, "make_plan", lambda *_: shared.made)
    patch.setattr(run, "payload_bytes", lambda *_: 0)
    patch.setattr(run, "moved_sources", lambda *_: [])
    patch.setattr(attempt, "Progress", _Quiet)
    patch.setattr(run, "now", lambda: NOW)
    patch.setattr(attempt, "now", lambda: NOW)
    patch.setattr(attempt.report, "attempted", lambda subject: f"page {int(subject.code)}".encode())
    patch.setattr("secrets.token_hex", lambda size: shared.world.draw(size))  # noqa: PLW0108  (the world changes)
    patch.setattr(writer, "time", SimpleNamespace(time=lambda: 0.0, perf_counter=lambda: 0.0))
    fixed = SimpleNamespace(now=lambda _: NOW)
    patch.setattr(
        latest_module, "datetime", SimpleNamespace(datetime=fixed, date=datetime.date, UTC=datetime.UTC)
    )
    for name in ("count_request", "count_read", "event"):
        patch.setattr(telemetry, name, lambda *_, **__: None)
    for module in (
        "pipeline.dataset.shard_records",
        "pipeline.dataset.failed_splits",
        "pipeline.nightly.members",
        "pipeline.nightly.prune",
    ):
        patch.setattr(f"{module}.ThreadPoolExecutor", Inline)
    asked = getattr(job, "_refuse_lost", None)

    def once(*about: Any) -> None:
        """Checks once per actor, as each process does, but not for a worker that checked before."""
        if asked and not getattr(shared.world.here, "asked", False):
            asked.__wrapped__(*about)
            shared.world.here.asked = True

    patch.setattr(job, "_refuse_lost", once, raising=False)
