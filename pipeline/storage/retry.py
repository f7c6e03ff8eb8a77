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
    started, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    while True:
        try:
            return await attempt()
        except Exception as error:
            reason = transient(error)
            wait = random.uniform(0, pause)  # fully random, so that requests that failed together spread out
            patience = FIRST_PATIENCE_SECONDS if is_unreachable(error) and not known else PATIENCE_SECONDS
            if reason is None or time.monotonic() + wait > started + patience:
                raise
        telemetry.count_retry(reason)
        await asyncio.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
