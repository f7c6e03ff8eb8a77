"""The interface to storage: list, read, put, put-if-absent, replace-if, copy.

Only this package knows protocols.

Every failure leaves this package as a `StorageError`. A put is atomic on every backend: readers see the
whole object or none. Put-if-absent commits shards: exactly one of any number of writers wins.
"""

import functools

from pipeline.config.location import Options, protocol_of
from pipeline.storage.base import (
    HubStorage,
    Listing,
    MemoryStorage,
    ObjectInfo,
    PassedOver,
    Storage,
    no_conditional_writes,
)
from pipeline.storage.filesystem import filesystem
from pipeline.storage.local import BROKEN_LINK, LocalStorage, only_its_inode_changed
from pipeline.storage.objects import ObjectStorage
from pipeline.storage.s3 import S3Storage

__all__ = [
    "BROKEN_LINK",
    "Listing",
    "ObjectInfo",
    "PassedOver",
    "Storage",
    "connect",
    "no_conditional_writes",
    "only_its_inode_changed",
]

KINDS: dict[str, type[Storage]] = {
    "abfs": ObjectStorage,
    "az": ObjectStorage,
    "file": LocalStorage,
    "gs": ObjectStorage,
    "hf": HubStorage,
    "memory": MemoryStorage,
    "s3": S3Storage,
}


def connect(path: str, options: Options | None = None) -> Storage:
    """Returns the storage that holds a path or URL. There is one per process, protocol and options.

    Raises:
        ConfigError: the protocol's driver is not installed.
    """
    return _connect(protocol_of(path), options or Options())


@functools.cache
def _connect(protocol: str, options: Options) -> Storage:
    return KINDS.get(protocol, Storage)(filesystem(protocol, options), options)
