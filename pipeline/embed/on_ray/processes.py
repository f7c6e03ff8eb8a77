"""Watches the processes of Ray on this machine without which the driver can't go on; names one that died."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private import worker

from pipeline import supervise

NAMES = {
    "gcs_server": "control store (GCS)",
    "raylet": "raylet",
    "ray::DashboardA": "dashboard agent",  # the kernel keeps 15 characters
    "ray::RuntimeEnv": "runtime environment agent",
}
"""The processes by the names that the kernel has for them. A raylet ends when one of its agents does."""
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Process:
    """A process; its start, in the kernel's ticks, tells it from a later one with its pid."""

    kind: str
    pid: int
    parent: int
    start: int


_vital: list[Process] = []


@contextmanager
def starting() -> Iterator[None]:
    """Watches the processes that this process starts, from their first moments, while the context lasts."""
    ended = threading.Event()

    def look() -> None:
        found = [each for each in _all() if each.kind in NAMES]
        ours = {each.pid for each in found if each.parent == os.getpid()}
        _watch(each for each in found if each.pid in ours or each.parent in ours)

    def look_often() -> None:
        while not ended.wait(LOOK_SECONDS):
            look()

    looking = threading.Thread(target=look_often, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        look()  # one that died early is still a zombie


def watch() -> None:
    """Watches the processes of the Ray that this process has started or joined."""
    session = worker._global_node.session_name
    node = ray.get_runtime_context().get_node_id()
    found = [each for each in _all() if each.kind in NAMES]
    nodes = {each.pid for each in found if each.kind == "raylet" and _has_argument(each, node)}
    stores = {each.pid for each in found if each.kind == "gcs_server" and _has_argument(each, session)}
    _watch(each for each in found if each.pid in nodes | stores or each.parent in nodes)


def _watch(found: Iterable[Process]) -> None:
    if more := [each for each in found if each not in _vital]:
        _vital.extend(more)
        supervise.tell(needs=[(NAMES[each.kind], each.pid) for each in more])


def forget() -> None:
    """Stops watching: Ray is about to end."""
    _vital.clear()
    supervise.tell(needs=None)


def dead() -> str | None:
    """Names a process that has died. The others follow it: first the agents, then the raylet."""
    gone = {each.kind for each in _vital if _read(each.pid, zombies=False) != each}
    return next((name for kind, name in NAMES.items() if kind in gone), None)


def _all() -> Iterator[Process]:
    for path in Path("/proc").glob("[0-9]*"):  # nothing on macOS
        if found := _read(int(path.name), zombies=True):
            yield found


def _read(pid: int, zombies: bool) -> Process | None:
    """Returns a process; None if it has ended.

    Args:
        zombies: true if a process whose parent has yet to notice that it ended counts, too.
    """
    with suppress(OSError):
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        fields = tail.split()
        if zombies or fields[0] not in "ZX":
            return Process(head.partition("(")[2], pid, int(fields[1]), int(fields[19]))
    return None


def _has_argument(process: Process, part: str) -> bool:
    with suppress(OSError):
        return part in Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace")
    return False
