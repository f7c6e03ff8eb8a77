"""Reports what happens to people and machines: events, and counts of requests and retries. No policy."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pipeline.sanitize import printable

LONGEST = 4000
"""Characters of an event's line."""
log = logging.getLogger("pipeline")

requests: Counter[str] = Counter()
"""Storage requests of this process by operation ("open", "list", "put", ...)."""

retries: Counter[str] = Counter()
"""Storage requests that this process repeated, by the reason of the failure before."""

read_bytes: Counter[str] = Counter()
"""Bytes that this process read from files opened in storage, by protocol."""

observers: list[Callable[[str, str], None]] = []
"""Functions called with (operation, path) at every storage request; tests and tracing append to it."""


_life: list[Callable[[], None]] = []


def event(name: str, **fields: object) -> None:
    """Logs one event as `name key=value ...`."""
    log.info(_line(name, fields))


def warn(name: str, **fields: object) -> None:
    """Logs an event that people should see even if no log is set up.

    Ray's workers have no log set up. There Python itself writes only warnings and above to standard error,
    which Ray keeps as the worker's log.
    """
    log.warning(_line(name, fields))


def count_request(operation: str, path: str) -> None:
    """Counts one storage request."""
    requests[operation] += 1
    heartbeat()
    for observe in observers:
        observe(operation, path)


def count_read(protocol: str, size: int) -> None:
    """Counts bytes that were read from a file."""
    read_bytes[protocol] += size
    heartbeat()


def heartbeat() -> None:
    """Signals to the observers of this process that it lives: after a micro-batch, a request, some bytes."""
    for hear in _life:
        hear()


@contextmanager
def on_heartbeat(hear: Callable[[], None]) -> Iterator[None]:
    """Passes each sign of life to `hear` while the context lasts."""
    _life.append(hear)
    try:
        yield
    finally:
        _life.remove(hear)


def count_retry(reason: str) -> None:
    """Counts one storage request that is about to be repeated."""
    retries[reason] += 1
    log.debug("storage retry reason=%s", reason)


def _line(name: str, fields: Mapping[str, object]) -> str:
    """Formats an event as one line, even if a value has several lines."""
    told = [name, *(f"{key}={' '.join(str(value).split())}" for key, value in fields.items())]
    return printable(" ".join(told), LONGEST)
