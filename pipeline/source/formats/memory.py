"""Memory that a file's content may take of this process: so it is the file that fails, and not the process.

Native libraries allocate what a file tells them to; only the kernel can refuse it to them.
"""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import SourceError

SMALL = 1 << 20
"""Bytes of content that many threads may hold at once."""
LARGE_AT_ONCE = 1
_guard = threading.Lock()
_turns = threading.BoundedSemaphore(LARGE_AT_ONCE)
_mine = threading.local()


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Let this process allocate no more than so many further bytes.

    One thread at a time does, for the limit is the process's; another goes on under the limit of the first.

    Raises:
        SourceError: that was not enough.
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
            hint="make it anew with smaller row groups and pages, or leave it out",
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        _guard.release()


def limit(more: int) -> None:
    """Let this process have no more data than it has now, and so many bytes; nor than it might before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data() + more
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted if soft == resource.RLIM_INFINITY else min(soft, wanted), hard)
    )


def _data() -> int:
    """What counts for the limit: private memory that can be written to (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


@contextmanager
def turns() -> Iterator[None]:
    """Have this thread wait, in here, for its turn with content that is large: see `take_turn`."""
    _mine.waits, _mine.has_turn = True, False
    try:
        yield
    finally:
        if _mine.has_turn:
            _turns.release()
        _mine.waits = _mine.has_turn = False


def take_turn() -> None:
    """Say that content becomes large: of the threads inside `turns` only a few go on, the others wait."""
    if getattr(_mine, "waits", False) and not _mine.has_turn:
        _turns.acquire()
        _mine.has_turn = True
