"""Publishes the dataset that readers follow as tables: Delta Lake beside the series, Iceberg in a catalog.

The folder stays the truth. A table holds nothing but the names of the shards of one dataset, so it can be
made again at any time. Each publishing is one commit that replaces all of them: readers see one dataset, or
the next.

A publisher looks at the table first, and at LATEST.json after that. A commit to a table that has changed
since then fails, and is tried again. So a slow publisher can't take a table back.
"""

from pipeline.publish.contents import Contents
from pipeline.publish.tables import Published, named_by_tables, publish

__all__ = ["Contents", "Published", "named_by_tables", "publish"]
