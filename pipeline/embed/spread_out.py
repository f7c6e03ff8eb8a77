"""Calls a function for each of many items: in threads, or on Ray if that is worth its start."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MANY = 200
"""Above this number items are spread over Ray, which takes seconds to start."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread_out(
    function: Callable[[Item], Result], items: Iterable[Item], count: int, threads: int
) -> Iterator[Result]:
    """Yields a function's result for each item: on Ray with a cluster or many items, else in threads.

    Args:
        count: how many items there are, about.
    """
    if os.environ.get("RAY_ADDRESS") or count > MANY:
        # Ray takes a second to import and six to start.
        from pipeline.embed.on_ray import spread  # noqa: PLC0415

        yield from spread(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)
