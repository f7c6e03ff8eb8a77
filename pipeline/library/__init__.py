"""Offers the engine to other programs: a notebook, a Ray Data pipeline, a Spark job, or a whole job.

The package `pipeline` names what is public. This file imports nothing, so that a name costs only what it
needs.
"""
