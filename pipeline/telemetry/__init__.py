"""What happened, for people and machines: events, and counts of storage requests and retries. No policy."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pipeline.sanitize import printable

LONGEST = 4000
"""Of an event."""
log = logging.getLogger("pipeline")

requests: Counter[str] = Counter()
"""Storage requests of this process by operation ("open", "list", "put", ...)."""

retries: Counter[str] = Counter()
"""Storage requests of this process that were made again, by what went wrong before."""

read_bytes: Counter[str] = Counter()
"""Bytes that this process read of files opened in storage, by protocol."""

observers: list[Callable[[str, str], None]] = []
"""Called with (operation, path) at every storage request; tests and tracing append to it."""


_life: list[Callable[[], None]] = []


def event(name: str, **fields: object) -> None:
    """Log one event as `name key=value ...`."""
    log.info(_line(name, fields))


def warn(name: str, **fields: object) -> None:
    """Log an event that people should see even where nobody has set up a log.

    Such are Ray's workers: there Python itself writes warnings, and nothing less, to standard error, which
    Ray keeps as the worker's log.
    """
    log.warning(_line(name, fields))


def request(operation: str, path: str) -> None:
    """Count one storage request."""
    requests[operation] += 1
    beat()
    for observe in observers:
        observe(operation, path)


def read(protocol: str, size: int) -> None:
    """Count bytes that were read of a file."""
    read_bytes[protocol] += size
    beat()


def beat() -> None:
    """A sign of life: a micro-batch, a request, some bytes; for whoever watches this process."""
    for hear in _life:
        hear()


@contextmanager
def signs_of_life(hear: Callable[[], None]) -> Iterator[None]:
    """While this lasts, each sign of life is passed on."""
    _life.append(hear)
    try:
        yield
    finally:
        _life.remove(hear)


def retry(reason: str) -> None:
    """Count one storage request that is about to be made again."""
    retries[reason] += 1
    log.debug("storage retry reason=%s", reason)


def _line(name: str, fields: Mapping[str, object]) -> str:
    """One line; a value of several is on it, too."""
    told = [name, *(f"{key}={' '.join(str(value).split())}" for key, value in fields.items())]
    return printable(" ".join(told), LONGEST)
