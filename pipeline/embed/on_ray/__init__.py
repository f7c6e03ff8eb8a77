"""Runs the flow on Ray Data: read and tokenise on CPUs, encode on a pool of replicas, write on CPUs.

One split is one Ray row, from end to end: Ray may move, retry and spill it, but neither cut nor merge it.
This is the only package that imports Ray; the code that it runs (`read`, `encode`, `write`, `matching`) does
not know Ray.
"""

from pipeline.embed.on_ray.cluster import cluster
from pipeline.embed.on_ray.graph import run
from pipeline.embed.on_ray.match import match
from pipeline.embed.on_ray.shared_storage import refuse_private_output
from pipeline.embed.on_ray.tasks import spread

__all__ = ["cluster", "match", "refuse_private_output", "run", "spread"]
