"""The flow on Ray Data: read and tokenise on CPUs, encode on a pool of replicas, write on CPUs.

One split is one Ray row, from end to end: Ray may move, retry and spill it, but neither cut nor merge it.
The only package that imports Ray; what it runs (`stages`, `matching`) does not know it.
"""

from pipeline.flow.cluster import cluster
from pipeline.flow.graph import run
from pipeline.flow.probe import refuse_private_output
from pipeline.flow.shuffle import match
from pipeline.flow.tasks import spread

__all__ = ["cluster", "match", "refuse_private_output", "run", "spread"]
