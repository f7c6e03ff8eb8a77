"""What happened, for people and machines: events, and counts of storage requests and retries. No policy."""

import logging
from collections import Counter
from collections.abc import Callable

log = logging.getLogger("pipeline")

requests: Counter[str] = Counter()
"""Storage requests of this process by operation ("open", "list", "put", ...)."""

retries: Counter[str] = Counter()
"""Storage requests of this process that were made again, by what went wrong before."""

read_bytes: Counter[str] = Counter()
"""Bytes that this process read of files opened in storage, by protocol."""

observers: list[Callable[[str, str], None]] = []
"""Called with (operation, path) at every storage request; tests and tracing append to it."""


def event(name: str, **fields: object) -> None:
    """Log one event as `name key=value ...`."""
    log.info(" ".join([name, *(f"{key}={value}" for key, value in fields.items())]))


def request(operation: str, path: str) -> None:
    """Count one storage request."""
    requests[operation] += 1
    for observe in observers:
        observe(operation, path)


def retry(reason: str) -> None:
    """Count one storage request that is about to be made again."""
    retries[reason] += 1
    log.debug("storage retry reason=%s", reason)
