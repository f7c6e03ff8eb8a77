"""Compares listing and reading with each store's own library, on its emulator on this machine.

    pip install google-cloud-storage
    python -m benchmarks.stores [OBJECTS] [MEGABYTES]

Each figure is the best of three rounds, in turns.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from azure.storage.blob import BlobServiceClient
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from pipeline import storage
from pipeline.config.location import Options
from pipeline.storage import Storage
from tests.clouds import azurite_server, fake_gcs

ROUNDS, WRITERS = 3, 8
FOLDER, LARGE = "many", "large"
Work = Callable[[], int]


@dataclass(frozen=True)
class Store:
    """A store, as we reach it, and what its own library does."""

    name: str
    root: str
    ours: Storage
    lists: Work
    reads: Work


@contextmanager
def azurite() -> Iterator[Store]:
    """Yields Azure's emulator."""
    os.environ["AZURE_STORAGE_ACCOUNT_KEY"] = azurite_server.KEY
    with azurite_server.running_azurite() as url:
        ours = storage.connect("abfs://bench", Options(endpoint_url=url))
        theirs: Any = BlobServiceClient(url, credential=azurite_server.KEY).create_container("bench")
        yield Store(
            "Azurite",
            "abfs://bench",
            ours,
            lambda: sum(1 for _ in theirs.list_blobs(f"{FOLDER}/")),
            lambda: len(theirs.download_blob(LARGE, max_concurrency=8).readall()),
        )


@contextmanager
def google() -> Iterator[Store]:
    """Yields Google's emulator."""
    with fake_gcs.running_fake_gcs() as url:
        ours = storage.connect("gs://bench", Options(endpoint_url=url, anonymous=True))
        client: Any = Client("x", AnonymousCredentials(), client_options={"api_endpoint": url})
        theirs = client.create_bucket("bench")
        yield Store(
            "fake-gcs-server",
            "gs://bench",
            ours,
            lambda: sum(1 for _ in theirs.list_blobs(prefix=f"{FOLDER}/")),
            lambda: len(theirs.blob(LARGE).download_as_bytes()),
        )


def measure(store: Store, count: int, size: int) -> None:
    """Prints the lines of one store."""
    ours, root = store.ours, store.root
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda number: ours.put(f"{root}/{FOLDER}/{number:06}", b"1"), range(count)))
    ours.put(f"{root}/{LARGE}", os.urandom(size))
    listing, reading = f"list {count:,} objects", f"read {size >> 20} MB"
    print(_row(store, listing, count, lambda: len(ours.list_files(f"{root}/{FOLDER}")), store.lists))
    print(_row(store, reading, size, lambda: len(ours.read(f"{root}/{LARGE}")), store.reads), flush=True)


def _row(store: Store, what: str, wanted: int, ours: Work, theirs: Work) -> str:
    rounds = [(_seconds(ours, wanted), _seconds(theirs, wanted)) for _ in range(ROUNDS)]
    best = " | ".join(f"{min(each):.2f}" for each in zip(*rounds, strict=True))
    return f"| {store.name} | {what} | {best} |"


def _seconds(work: Work, wanted: int) -> float:
    begun = time.perf_counter()
    assert work() == wanted
    return time.perf_counter() - begun


def main(count: int = 5000, megabytes: int = 64) -> None:
    """Prints a table."""
    print("| store | what | ours, s | its own library, s |\n|---|---|---|---|")
    for running in (azurite, google):
        with running() as store:
            measure(store, count, megabytes << 20)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
