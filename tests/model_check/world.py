"""Simulates a storage in memory, and explores all schedules of the actors that use it.

`explore` runs the actors again and again, each time by another schedule: depth first, with a limited number
of preemptions and faults. At each request any actor may go on, or die. An actor is a thread that runs the
project's own code; only the chosen one moves. A schedule ends at a state that was seen before. A state is the
storage's objects, the requests and answers of each actor, the last mover, and the rest of the bounds.

The storage is a fake, because no real storage lets a test decide which of two requests it answers first.
"""

import contextlib
import errno
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage import ObjectInfo
from pipeline.storage.base import Storage

WRITES = ("create", "put", "replace", "remove")
CONDITIONAL = ("create", "replace")
FAULTS = {"die": None, "lost": WRITES, "refused": CONDITIONAL}
"""Faults, and the operations that can have them.

die: the process ends before the request.  lost: the request is done, but its answer is an error.
refused: the request is done, its answer is lost, and its repetition is refused, because the object exists.
"""


class Gone(BaseException):
    """Raised if the actor's process has ended, or its schedule is not followed further."""


@dataclass(frozen=True)
class Stored:
    """An object: its bytes, the number of writes to its path, and the time of the last."""

    data: bytes
    count: int
    changed: float


@dataclass
class Actor:
    """A thread that makes requests; the code in it runs as if in its own process."""

    name: str
    work: Callable[[], Any]
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    kind: str = "ok"
    request: tuple[str, str] = ("start", "")
    history: int = 0
    ended: bool = False
    dead: bool = False
    result: Any = None
    drawn: int = 0


class World:
    """The storage and its actors, of which one moves at a time."""

    def __init__(self, objects: Mapping[str, Stored], now: float) -> None:
        self.objects, self.now = dict(objects), now
        self.counts = {path: stored.count for path, stored in objects.items()}
        self.actors: list[Actor] = []
        self.here = threading.local()
        self.watch: list[Callable[[str, World], None]] = []
        self.decide: Callable[[Actor | None], tuple[Actor, str] | None] | None = None
        self.abandoned = False
        self.done = threading.Semaphore(0)

    @property
    def actor(self) -> Actor | None:
        """Returns the actor of this thread; None in the thread that sets up and checks the end."""
        return getattr(self.here, "actor", None)

    def request(self, operation: str, path: str, effect: Callable[[], Any]) -> Any:
        """Makes one request when it is its actor's turn."""
        me = self.actor
        if me is None:
            return effect()
        kind = self._wait(me, operation, path)
        try:
            result = effect()
        except OSError as error:
            me.history = hash((me.history, operation, path, kind, type(error).__name__))
            raise
        if operation in WRITES:
            for look in self.watch:
                look(path, self)
        me.history = hash((me.history, operation, path, kind, repr(result)))
        if kind == "lost":
            raise TimeoutError("the answer is lost")
        if kind == "refused":
            raise FileExistsError(errno.EEXIST, "refused", path)
        return result

    def _wait(self, me: Actor, operation: str, path: str) -> str:
        if me.dead or self.abandoned:
            raise Gone
        me.request = operation, path
        self._pass_on(me)
        if self.abandoned or me.kind == "die":
            me.dead = True
            raise Gone
        return me.kind

    def _pass_on(self, me: Actor) -> None:
        """Lets the chosen actor go on; returns when that is `me`."""
        assert self.decide is not None
        chosen = self.decide(me)
        if chosen is None:
            self._abandon()
            return
        actor, actor.kind = chosen
        if actor is not me:
            actor.go.release()
            me.go.acquire()

    def _abandon(self) -> None:
        self.abandoned = True
        for actor in self.actors:
            actor.go.release()

    def run(self, decide: Callable[[Actor | None], tuple[Actor, str] | None]) -> None:
        """Runs all actors to their ends."""
        self.decide = decide
        threads = [threading.Thread(target=self._live, args=(actor,), daemon=True) for actor in self.actors]
        for thread in threads:
            thread.start()
        chosen = decide(None)
        if chosen is None:
            self._abandon()
        else:
            actor, actor.kind = chosen
            actor.go.release()
        for thread in threads:
            thread.join()

    def _live(self, actor: Actor) -> None:
        self.here.actor = actor
        actor.go.acquire()
        with contextlib.suppress(Gone):
            if not self.abandoned:
                try:
                    actor.result = actor.work()
                except Exception as error:
                    actor.result = error
        actor.ended = True
        if not self.abandoned:
            assert self.decide is not None
            chosen = self.decide(actor)
            if chosen is None:
                self._abandon()
            elif chosen[0] is not actor:
                chosen[0].kind = chosen[1]
                chosen[0].go.release()

    def state(self) -> int:
        """Returns a hash of the storage's objects and the actors' knowledge."""
        held = frozenset((path, stored.count, stored.data) for path, stored in self.objects.items())
        known = tuple((actor.history, actor.ended, actor.request, actor.drawn) for actor in self.actors)
        return hash((held, known))

    def draw(self, size: int) -> str:
        """Returns a token that is the same in each schedule: from the actor and the number of its draws."""
        actor = self.actor or self._nobody
        actor.drawn += 1
        return f"{actor.name}{actor.drawn}".ljust(2 * size, "0")

    _nobody = Actor("nobody", lambda: None)


class Bucket:
    """A world's objects behind the interface of fsspec's drivers."""

    def __init__(self, world: Callable[[], World]) -> None:
        self.world = world

    @staticmethod
    def _strip_protocol(path: str) -> str:
        return path.removeprefix("s3://").rstrip("/")

    @staticmethod
    def unstrip_protocol(path: str) -> str:
        return f"s3://{path.removeprefix('s3://')}"

    def _entry(self, path: str) -> dict[str, Any]:
        stored = self.world().objects.get(path)
        if stored is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        return {
            "name": path, "size": len(stored.data), "type": "file", "ETag": f"{stored.count}",
            "mtime": stored.changed,
        }  # fmt: skip

    def _below(self, path: str) -> dict[str, dict[str, Any]]:
        return {
            name: self._entry(name) for name in sorted(self.world().objects) if name.startswith(f"{path}/")
        }

    def info(self, path: str) -> dict[str, Any]:
        name = self._strip_protocol(path)
        return self.world().request("info", name, lambda: self._entry(name))

    def ls(self, path: str, **_: Any) -> list[dict[str, Any]]:
        root = self._strip_protocol(path)

        def entries() -> list[dict[str, Any]]:
            found = {}
            for name, entry in self._below(root).items():
                first, _, rest = name.removeprefix(f"{root}/").partition("/")
                at = f"{root}/{first}"
                found[at] = {"name": at, "size": 0, "type": "directory"} if rest else entry
            return list(found.values())

        return self.world().request("list", root, entries)

    def find(self, path: str, **_: Any) -> dict[str, dict[str, Any]]:
        root = self._strip_protocol(path)
        return self.world().request("list", root, lambda: self._below(root))

    def cat_file(self, path: str) -> bytes:
        name = self._strip_protocol(path)

        def content() -> bytes:
            self._entry(name)
            return self.world().objects[name].data

        return self.world().request("read", name, content)

    def open(self, path: str, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(self.cat_file(path))

    def pipe_file(self, path: str, data: bytes, mode: str = "overwrite") -> None:
        name = self._strip_protocol(path)

        def create() -> None:
            if name in self.world().objects:
                raise FileExistsError(errno.EEXIST, "it is there", name)
            self._store(name, data)

        if mode == "create":
            self.world().request("create", name, create)
        else:
            self.world().request("put", name, lambda: self._store(name, data))

    def swap(self, path: str, data: bytes, expected: str) -> None:
        """Replaces an object of the expected version."""
        name = self._strip_protocol(path)

        def replace() -> None:
            stored = self.world().objects.get(name)
            if stored is None or f"{stored.count}" != expected:
                raise FileExistsError(errno.EEXIST, "another version is there", name)
            self._store(name, data)

        self.world().request("replace", name, replace)

    def rm_file(self, path: str) -> None:
        name = self._strip_protocol(path)
        self.world().request("remove", name, lambda: self.world().objects.pop(name, None) and None)

    def _store(self, name: str, data: bytes) -> None:
        world = self.world()
        world.counts[name] = world.counts.get(name, 0) + 1
        world.objects[name] = Stored(data, world.counts[name], world.now)


class ModelStorage(Storage):
    """The project's storage class over a bucket."""

    conditional = True

    def _replace(self, path: str, data: bytes, expected: str) -> None:
        self.filesystem.swap(path, data, expected)

    def _copy(self, source: ObjectInfo, target: str) -> None:
        self.filesystem.pipe_file(target, self.filesystem.cat_file(source.path), mode="create")


class Inline:
    """A thread pool without threads: an actor's parallel requests run one after the other."""

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None: ...

    @staticmethod
    def map(function: Callable[..., Any], *items: Any) -> Iterator[Any]:
        return iter(list(map(function, *items)))


@dataclass
class Found:
    """The results of an exploration."""

    schedules: int = 0
    states: int = 0
    requests: int = 0
    ends: int = 0
    cut_short: bool = False
    violations: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """The limits of an exploration; after `schedules` runs, no further schedule begins."""

    preemptions: int
    faults: tuple[str, ...] = ()
    most_faults: int = 1
    schedules: int = 100_000


def explore(
    start: Callable[[], World], check: Callable[[World], list[str]], bounds: Bounds, stop: bool = False
) -> Found:
    """Runs every schedule within the bounds.

    Args:
        start: makes a fresh world with its actors.  check: returns the faults of a world at its end.
        stop: stop at the first violation.
    """
    found, seen, ends = Found(), set(), set()
    stack: list[tuple[int, ...]] = [()]
    while stack:
        if found.schedules >= bounds.schedules:
            found.cut_short = True
            break
        schedule = _Schedule(start(), stack.pop(), bounds, seen)
        schedule.run()
        found.schedules += 1
        found.requests += schedule.requests
        stack.extend(schedule.others)
        world = schedule.world
        end = world.state()
        if world.abandoned or end in ends:
            continue
        ends.add(end)
        for violation in check(world):
            found.violations.setdefault(violation, schedule.trace)
        if stop and found.violations:
            break
    found.states, found.ends = len(seen), len(ends)
    return found


class _Schedule:
    """One schedule: the given choices, then the first option at each point; `others` has the rest."""

    def __init__(self, world: World, prefix: tuple[int, ...], bounds: Bounds, seen: set[int]) -> None:
        self.world, self.prefix, self.bounds, self.seen = world, prefix, bounds, seen
        self.taken: list[int] = []
        self.others: list[tuple[int, ...]] = []
        self.trace: list[str] = []
        self.last: Actor | None = None
        self.preemptions, self.faults, self.requests = bounds.preemptions, bounds.most_faults, 0

    def run(self) -> None:
        """Runs the schedule."""
        self.world.run(self._choose)

    def _choose(self, _: Actor | None) -> tuple[Actor, str] | None:
        options = self._options()
        if not options:
            return self.world.actors[0], "ok"  # all have ended, so no actor is woken
        at = len(self.taken)
        choice = self.prefix[at] if at < len(self.prefix) else 0
        if at >= len(self.prefix):
            state = hash((self.world.state(), self.last and self.last.name, self.preemptions, self.faults))
            if state in self.seen:
                return None
            self.seen.add(state)
            self.others += [(*self.taken, other) for other in range(1, len(options))]
        self.taken.append(choice)
        actor, kind = options[choice]
        if self.last and actor is not self.last and not self.last.ended:
            self.preemptions -= 1
        self.faults -= kind != "ok"
        self.last = actor
        self.requests += 1
        operation, path = actor.request
        self.trace.append(f"{actor.name} {operation} {path}" + ("" if kind == "ok" else f" [{kind}]"))
        return actor, kind

    def _options(self) -> list[tuple[Actor, str]]:
        """Returns the actors that may go on, and how; the last mover comes first."""
        able = [actor for actor in self.world.actors if not actor.ended]
        if self.last in able:
            able.remove(self.last)
            able = [self.last, *able] if self.preemptions else [self.last]
        options = [(actor, "ok") for actor in able]
        if self.faults:
            for actor in able:
                operation = actor.request[0]
                for fault in self.bounds.faults:
                    of = FAULTS[fault]
                    # An actor that dies after others have moved could as well have died before.
                    able_to = actor is able[0] if of is None else operation in of
                    if operation != "start" and able_to:
                        options.append((actor, fault))
        return options
