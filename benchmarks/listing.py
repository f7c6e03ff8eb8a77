"""Measures the cost of listing and planning very many objects: seconds, memory, requests.

    python -m benchmarks.listing [OBJECTS]

The objects are small texts in a hundred folders of a SeaweedFS bucket on this machine. Listing and planning
each run in a process of their own. The table shows its peak memory, and what Python, Arrow and the drivers
took before.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline import storage
from tests.s3.server import environment, running_server

FOLDERS, WRITERS = 100, 32
BUCKET = "s3://many"
CHILD = """
import collections, json, sys, time
from benchmarks.memory import peak_mib
from pipeline import telemetry
from pipeline.config.load import parse_config
from pipeline.model import checkpoint
from pipeline.plan.make import list_sources, make_plan
from pipeline.storage.s3 import S3

calls = collections.Counter()
before = S3._call_s3
async def counted(self, method, *arguments, **keywords):
    calls[method] += 1
    return await before(self, method, *arguments, **keywords)
S3._call_s3 = counted
get = S3._get
async def counted_get(self, *arguments, **keywords):
    calls["get_object"] += 1
    return await get(self, *arguments, **keywords)
S3._get = counted_get

what, values = sys.argv[1], json.loads(sys.argv[2])
parsed = parse_config(values)
model = checkpoint.resolve(parsed.model.name)
base, begun = peak_mib(), time.perf_counter()
done = list_sources(parsed) if what == "list" else make_plan(parsed, model, "digest").pieces
seconds = time.perf_counter() - begun
print(json.dumps({
    "items": len(done), "seconds": seconds, "base": base, "peak": peak_mib(),
    "seam": dict(telemetry.requests), "sent": dict(calls), "retries": telemetry.retries.total(),
}))
"""


def create(count: int) -> float:
    """Writes `count` objects; returns the seconds that it took."""
    store, begun = storage.connect(BUCKET), time.perf_counter()
    store.filesystem.mkdir(BUCKET)

    def put(number: int) -> None:
        text = f"document {number}\nand its second line\n"
        store.put(f"{BUCKET}/texts/{number % FOLDERS:03}/{number:08}.txt", text.encode())

    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(put, range(count), chunksize=1000):
            pass
    return time.perf_counter() - begun


def measure(what: str, pattern: str) -> str:
    """Prints one line of the table."""
    values = {"source": {"texts": {"path": pattern, "format": "text"}}, "output": {"path": "/nowhere"}}
    child = [sys.executable, "-c", CHILD, what, json.dumps(values)]
    found = json.loads(subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout)
    sent = ", ".join(f"{count:,} {name}" for name, count in found["sent"].items())
    seam = ", ".join(f"{count:,} {name}" for name, count in found["seam"].items())
    return (
        f"| {what} `{pattern}` | {found['items']:,} | {found['seconds']:.1f} | {found['base']:.0f} "
        f"| {found['peak']:.0f} | {seam} | {sent} |"
    )


def main(count: int = 100_000) -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as url:
        os.environ |= environment(url)
        print(f"{count:,} objects made in {create(count):.0f} s\n", flush=True)
        print("| what | items | seconds | MiB before | MiB at most | asked of storage | requests sent |")
        print("|---|---|---|---|---|---|---|")
        for pattern in (f"{BUCKET}/texts", f"{BUCKET}/texts/**/*.txt", f"{BUCKET}/texts/*/*.txt"):
            print(measure("list", pattern), flush=True)
        print(measure("plan", f"{BUCKET}/texts"), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
