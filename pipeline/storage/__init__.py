"""The seam to storage: list, read, put, put-if-absent, replace-if. The only package that knows protocols.

All failures leave here as `StorageError`s. A put is atomic on every backend: readers see the whole object
or none. Put-if-absent is what commits shards: of any number of writers exactly one wins.
"""

import functools

import fsspec

from pipeline.storage.files import LocalStorage
from pipeline.storage.objects import ObjectInfo, Storage

__all__ = ["ObjectInfo", "Storage", "connect"]


def connect(path: str) -> Storage:
    """The storage that holds a path or URL; one per process and protocol."""
    return _connect(path.split("://", 1)[0] if "://" in path else "file")


@functools.cache
def _connect(protocol: str) -> Storage:
    if protocol == "file":
        return LocalStorage(fsspec.filesystem("file"))
    # A cached listing would hide the shards of a rival, and what changed under a reader.
    return Storage(fsspec.filesystem(protocol, use_listings_cache=False))
