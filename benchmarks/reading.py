"""How fast one large object is read through our seam, beside pyarrow and bare s3fs: prints a Markdown table.

    python -m benchmarks.reading [MB] [ROUNDS]

From SeaweedFS on this machine, so that no network hides what a client costs; the server takes its share of the
same cores. Contenders take turns, and every byte is looked at by none: only ratios within one run mean much.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow.fs
import s3fs

from pipeline import storage
from tests.s3.server import KEY, SECRET, environment, running_server

MB = 1 << 20
SIZES = {"1 MB": MB, "16 MB": 16 * MB}
BASE = "pyarrow, open_input_stream"

Read = Callable[[], int]
"""Reads the object once; how many bytes there were."""


def streamed(opened: Callable[[], AbstractContextManager[Any]], size: int) -> Read:
    """Read from the start to the end, so many bytes at a time."""

    def read() -> int:
        total = 0
        with opened() as file:
            while data := file.read(size):
                total += len(data)
        return total

    return read


def contenders(path: str, url: str) -> Iterator[tuple[str, Read]]:
    """Ours, pyarrow's and s3fs's ways to read an object: in parts, and at once."""
    store, key = storage.connect(path), path.removeprefix("s3://")
    arrow = pyarrow.fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=url, region="us-east-1"
    )
    bare = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=url, skip_instance_cache=True)
    for name, size in SIZES.items():
        yield f"ours, open, {name} a read", streamed(lambda: store.open(path), size)
        yield f"{BASE}, {name} a read", streamed(lambda: arrow.open_input_stream(key), size)
        yield f"pyarrow, open_input_file, {name} a read", streamed(lambda: arrow.open_input_file(key), size)
        yield f"s3fs, open, {name} a read", streamed(lambda: bare.open(key), size)
    yield "ours, read", lambda: len(store.read(path))
    yield "pyarrow, open_input_file, one read", streamed(lambda: arrow.open_input_file(key), 1 << 40)
    yield "s3fs, cat_file", lambda: len(bare.cat_file(key))


def measure(path: str, url: str, size: int, rounds: int) -> dict[str, list[float]]:
    """MB/s of each contender in each round; a round before these is not counted."""
    readers = dict(contenders(path, url))
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        names = list(readers)
        for name in names if number % 2 else reversed(names):
            begun = time.perf_counter()
            assert readers[name]() == size, name
            if number:
                speeds[name].append(size / MB / (time.perf_counter() - begun))
    return speeds


def main(megabytes: int = 256, rounds: int = 5) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as url:
        os.environ |= environment(url)
        path = "s3://bench/object"
        store = storage.connect(path)
        store.filesystem.mkdir("bench")
        store.put(path, os.urandom(megabytes * MB))
        speeds = measure(path, url, megabytes * MB, rounds)
    print(f"| {megabytes} MB, {rounds} rounds | MB/s (median) | least | most | of pyarrow's stream |")
    print("|---|---|---|---|---|")
    base = statistics.median(speeds[f"{BASE}, 16 MB a read"])
    for name, found in speeds.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.0f} | {min(found):.0f} | {max(found):.0f} | {middle / base:.2f} |")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
