"""Limits the memory that the content of a file may take, so that the file fails, and not this process.

Native libraries allocate as much as a file says; only the kernel can refuse it.
"""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import SourceError

SMALL = 1 << 20
"""The bytes of content that many threads may hold at the same time."""
LARGE_AT_ONCE = 1
_guard = threading.Lock()
_turns = threading.BoundedSemaphore(LARGE_AT_ONCE)
_mine = threading.local()


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Lets this process allocate at most `more` further bytes.

    Only one thread at a time sets the limit, since it is the limit of the process. Another thread runs under
    the limit of the first.

    Raises:
        SourceError: the limit was too low.
    """
    if not _guard.acquire(blocking=False):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        limit(more)
        yield
    except MemoryError:
        raise SourceError(
            "needs too much memory to be read",
            got=f"more than {more >> 20} MiB at once",
            hint="make it again with smaller row groups and pages, or leave it out",
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        _guard.release()


def limit(more: int) -> None:
    """Limits the data of this process to its present size and `more` bytes; never raises an older limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data() + more
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted if soft == resource.RLIM_INFINITY else min(soft, wanted), hard)
    )


def _data() -> int:
    """Returns the bytes that count for the limit: private, writable memory (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


@contextmanager
def turns() -> Iterator[None]:
    """Makes this thread wait, within the context, for its turn with large content: see `take_turn`."""
    _mine.waits, _mine.has_turn = True, False
    try:
        yield
    finally:
        if _mine.has_turn:
            _turns.release()
        _mine.waits = _mine.has_turn = False


def take_turn() -> None:
    """Announces that content becomes large: only a few threads inside `turns` go on, the others wait."""
    if getattr(_mine, "waits", False) and not _mine.has_turn:
        _turns.acquire()
        _mine.has_turn = True
