"""Compares reading one large object through `pipeline.storage` with pyarrow and bare s3fs, as Markdown.

    python -m benchmarks.reading [MB] [ROUNDS]

The object is in SeaweedFS on this machine, so that no network hides the cost of a client; the server takes
its share of the same cores. Contenders take turns: only ratios within one run mean much. Figures are medians;
the last column is the median of the ratios in each round.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import s3fs

from pipeline import storage
from tests.s3.server import KEY, SECRET, environment, running_server

MB = 1 << 20
SIZES = {"1 MB": MB, "16 MB": 16 * MB}
BASE = "pyarrow, open_input_stream"

Read = Callable[[], int]
"""A function that reads the object once, and returns the number of bytes."""


def streamed(opened: Callable[[], AbstractContextManager[Any]], size: int) -> Read:
    """Returns a contender that reads from start to end, `size` bytes at a time."""

    def read() -> int:
        total = 0
        with opened() as file:
            while data := file.read(size):
                total += len(data)
        return total

    return read


def contenders(path: str, url: str) -> Iterator[tuple[str, Read]]:
    """Yields the ways of this project, pyarrow and s3fs to read an object: in parts, and at once."""
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
    yield "pyarrow, open_input_file, one read", lambda: len(arrow.open_input_file(key).read())
    yield "s3fs, cat_file", lambda: len(bare.cat_file(key))


def measure(path: str, url: str, size: int, rounds: int) -> dict[str, np.ndarray]:
    """Returns MB/s and CPU seconds of this process for each contender and round, without the first round."""
    readers = dict(contenders(path, url))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        for name in list(readers) if number % 2 else reversed(readers):
            begun, worked = time.perf_counter(), time.process_time()
            assert readers[name]() == size, name
            speed = size / MB / (time.perf_counter() - begun)
            found[name].append((speed, time.process_time() - worked))
    return {name: np.array(each[1:]) for name, each in found.items()}


def main(megabytes: int = 256, rounds: int = 5) -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as url:
        os.environ |= environment(url)
        path = "s3://bench/object"
        store = storage.connect(path)
        store.filesystem.mkdir("bench")
        store.put(path, os.urandom(megabytes * MB))
        found = measure(path, url, megabytes * MB, rounds)
    print(f"| {megabytes} MB, {rounds} rounds | MB/s | least | most | CPU ms | of pyarrow's stream |")
    print("|---|---|---|---|---|---|")
    base = found[f"{BASE}, 16 MB a read"][:, 0]
    for name, each in found.items():
        speeds, cpu = each.T
        ratio = np.median(speeds / base)
        print(
            f"| {name} | {np.median(speeds):.0f} | {min(speeds):.0f} | {max(speeds):.0f} "
            f"| {1000 * np.median(cpu):.0f} | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
