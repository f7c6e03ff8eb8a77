"""Micro-batches side by side on a CPU: a lane each, and one thread of torch's in each lane.

With all of torch's threads in each step, a step ends when the last of them does: where anybody else needs a
processor for a moment, all the others wait for it. Lanes wait for nobody, and their matrix products are as
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
    """So many at the same time; the rest of the process keeps the threads that torch has.

    ahead: how many may be begun before the first is waited for, so that no lane is ever without one.
    """

    def __init__(self, count: int) -> None:
        self.ahead = 2 * count
        self._pool = ThreadPoolExecutor(count, "lane")
        others, all_there = torch.get_num_threads(), Barrier(count)

        def enter(_: int) -> None:
            torch.get_num_threads()  # a thread that has not asked yet takes the others' number later
            torch.set_num_threads(1)
            all_there.wait()  # else one thread might enter for two

        list(self._pool.map(enter, range(count)))
        torch.set_num_threads(others)  # of this thread, and of those that have not begun

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """Call a function in the next lane that is free; what is returned waits for its result."""
        return self._pool.submit(function, *args, **kwargs).result


class SerialRunner:
    """The same for a GPU, which takes one micro-batch after the other, in the caller's thread."""

    ahead = 1

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """Call a function."""
        result = function(*args, **kwargs)
        return lambda: result
