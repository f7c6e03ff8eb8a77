"""Runs micro-batches side by side on a CPU: each has a lane, and each lane has one of torch's threads.

If all of torch's threads share each step, a step ends when the last of them does: if another process needs a
processor for a moment, all threads wait. Lanes do not wait for each other, and their matrix products are as
fast (docs/decisions.md has the figures).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPool:
    """Runs `count` micro-batches at the same time; the rest of the process keeps torch's number of threads.

    ahead: how many may begin before the caller waits for the first, so that no lane is ever idle.
    """

    def __init__(self, count: int) -> None:
        self.ahead = 2 * count
        self._pool = ThreadPoolExecutor(count, "lane")
        others, all_there = torch.get_num_threads(), Barrier(count)

        def enter(_: int) -> None:
            torch.get_num_threads()  # otherwise the thread would take the others' number later
            torch.set_num_threads(1)
            all_there.wait()  # otherwise one thread might enter for two

        list(self._pool.map(enter, range(count)))
        torch.set_num_threads(others)  # for this thread, and for those that have not begun

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """Calls a function in the next free lane; returns a function that waits for its result."""
        return self._pool.submit(function, *args, **kwargs).result


class SerialRunner:
    """Runs one micro-batch after the other in the caller's thread, for a GPU."""

    ahead = 1

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """Calls a function at once; returns a function that gives its result."""
        result = function(*args, **kwargs)
        return lambda: result
