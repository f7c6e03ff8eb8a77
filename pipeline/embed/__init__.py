"""Takes one split through read, encode and write, and describes the job to workers.

This package does not know Ray; `on_ray` runs the same stages on a cluster.
"""
