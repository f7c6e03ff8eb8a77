"""Repeats requests that may succeed later, with growing pauses, for up to two minutes. Nothing else does."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pipeline import telemetry
from pipeline.storage.error_mapping import is_unreachable, transient

PATIENCE_SECONDS = 120.0
FIRST_PATIENCE_SECONDS = 15.0
"""The limit for a server that never answered this process: its address is probably wrong."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0

T = TypeVar("T")


async def retried(attempt: Callable[[], Awaitable[T]], known: bool) -> T:
    """Returns what an attempt returns; repeats the attempt while its failure is one that may pass.

    Args:
        known: True if the server has answered before.

    Raises:
        Exception: what the last attempt raised.
    """
    pauses = _Pauses(known)
    while True:
        try:
            return await attempt()
        except Exception as error:
            wait = pauses.after(error)
        await asyncio.sleep(wait)


def repeated(attempt: Callable[[], T], known: bool) -> T:
    """Does the same as `retried`, for an attempt that blocks its thread."""
    pauses = _Pauses(known)
    while True:
        try:
            return attempt()
        except Exception as error:
            wait = pauses.after(error)
        time.sleep(wait)


class _Pauses:
    """The pauses between the attempts of one request."""

    def __init__(self, known: bool) -> None:
        self.known, self.started, self.pause = known, time.monotonic(), FIRST_PAUSE_SECONDS

    def after(self, error: Exception) -> float:
        """Counts a failure, and returns the seconds to wait.

        Raises:
            Exception: the failure itself, because it does not pass, or because time is up.
        """
        reason = transient(error)
        wait = random.uniform(0, self.pause)  # fully random, so that requests that failed together spread out
        early = is_unreachable(error) and not self.known
        patience = FIRST_PATIENCE_SECONDS if early else PATIENCE_SECONDS
        if reason is None or time.monotonic() + wait > self.started + patience:
            raise error
        telemetry.count_retry(reason)
        self.pause = min(2 * self.pause, LONGEST_PAUSE_SECONDS)
        return wait
