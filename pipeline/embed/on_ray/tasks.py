"""Runs a function over many items, in order, on all CPUs of the cluster."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.embed.on_ray.cluster import cluster
from pipeline.errors import StoppedError

TASKS_PER_CPU = 2
"""Tasks that run or wait at the same time: no CPU waits for the driver, and results do not pile up."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yields a function's result for each item, in order; each item is a task of one CPU.

    Raises:
        Exception: the function raised it.
        StoppedError: Ray gave up.
    """
    with cluster():
        task = ray.remote(num_cpus=1)(function)
        under_way: deque[Any] = deque()
        most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        try:
            for item in items:
                under_way.append(task.remote(item))
                if len(under_way) >= most:
                    yield ray.get(under_way.popleft())
            while under_way:
                yield ray.get(under_way.popleft())
        except RayError as error:
            if isinstance(error, RayTaskError):
                raise error.cause from error
            reason = " ".join(str(error).split())
            raise StoppedError("Ray ended the job", got=reason, hint="run again") from error
