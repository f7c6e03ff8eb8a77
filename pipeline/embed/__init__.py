"""One split through read, encode and write, and what workers are told.

Knows no Ray: `on_ray` runs the same on a cluster.
"""
