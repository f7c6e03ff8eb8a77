"""Watches for how many of the replicas that a run wants the cluster has a place, and says who is missing."""

import time
from collections.abc import Callable

from pipeline import telemetry
from pipeline.embed.on_ray.cluster import alive_nodes
from pipeline.embed.resources import Resources
from pipeline.telemetry.liveness import Replicas

LOOK_SECONDS = 10.0
SAY_SECONDS = 60.0
"""Seconds between two lines about the same lack."""


class Capacity:
    """The places for replicas on the nodes that are alive.

    Nodes may come late or never: a quota is used up, or there is no spot capacity. The run goes on with what
    is there, and asks for the rest until its end.

    Args:
        clock: returns seconds since any fixed time.
    """

    def __init__(self, resources: Resources, clock: Callable[[], float] = time.monotonic) -> None:
        self._resources, self._clock = resources, clock
        self._looked = self._said = -SAY_SECONDS
        self._room = 0

    def look(self, splits: int) -> Replicas:
        """Returns the wanted and the placed replicas of a run that has so many splits left.

        Logs once a minute that nodes are missing.
        """
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked, self._room = now, self._resources.room(alive_nodes())
        wanted = min(self._resources.at_start, splits)
        found = Replicas(min(self._room, wanted), wanted)
        if found.placed < found.wanted and now - self._said >= SAY_SECONDS:
            self._said = now
            telemetry.event("waiting for nodes", replicas=f"{found.placed} of {found.wanted} have a place")
        return found
