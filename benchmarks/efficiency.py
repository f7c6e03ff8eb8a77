"""Measures how much of the bare encoder's speed a whole job keeps.

    python -m benchmarks.efficiency [--tokens 12000] [--splits 10] [--rounds 5]

Reading, transport and writing share the processors with it. The texts are Python's docstrings, in files of
one split each. A split has `--tokens` tokens and takes some seconds; by default one takes a minute. Weights
are random, of albert-base geometry. "Bare" is the encoder alone in a process, on the token ids of one split
after the other. For the job, the rate is in tokens per second from the shard at a quarter of them to the one
before the last tenth. Both use all processors; the rounds alternate. The table also shows the share of the
processors that the encoder's process had meanwhile. On a machine that shares its host, rates drift by the
minute, and this share does not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import docstrings
from benchmarks.encoder import make_model
from benchmarks.job import run
from benchmarks.simulated import middle, steady
from benchmarks.spread import spread
from pipeline.embed.on_ray.graph import RayEncode
from pipeline.model.checkpoint import resolve
from pipeline.model.tokenizer.tokenizer import Tokenizer

BARE = """
import os, sys, time
from pathlib import Path
import pyarrow.parquet as pq
from pipeline.embed.on_ray.graph import RayEncode
from pipeline.model.checkpoint import resolve
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer
model = resolve(sys.argv[1])
encoder, tokenizer = Encoder(model, device="cpu", dtype="float32", threads=os.cpu_count()), Tokenizer(model)
splits = [
    tokenizer.encode(pq.read_table(file)["text"].combine_chunks().cast("large_string"))
    for file in sorted(Path(sys.argv[2]).glob("*.parquet"))
]
encoder.encode(splits[0])
begun, busy = time.perf_counter(), time.process_time()
for tokens in splits[1:]:
    encoder.encode(tokens)
seconds, busy = time.perf_counter() - begun, time.process_time() - busy
print(sum(int(tokens.lengths.sum()) for tokens in splits[1:]) / seconds, busy / seconds / os.cpu_count())
"""
REPLICA = f"ray::MapWorker(MapBatches({RayEncode.__name__}))"
"""The title that Ray gives a replica's process."""
LOOK_SECONDS = 0.5

Measured = tuple[float, float]
"""Tokens per second, and the share of the processors that the encoder's process had, 0 to 1."""


def corpus(folder: Path, model: Path, tokens: int, splits: int) -> Path:
    """Writes files of about `tokens` tokens each, of texts drawn with a fixed seed."""
    texts = docstrings(folder).combine_chunks()
    texts = texts.take(pa.array(np.random.default_rng(0).permutation(len(texts))))
    total = np.cumsum(Tokenizer(resolve(str(model))).encode(texts.cast(pa.large_string())).lengths)
    edges = np.searchsorted(total, np.arange(splits + 1) * tokens)
    source = folder / "source"
    source.mkdir()
    for number in range(splits):
        part = texts.slice(edges[number], edges[number + 1] - edges[number])
        pq.write_table(pa.table({"text": part}), source / f"{number:03}.parquet")
    return source


def bare(model: Path, source: Path) -> Measured:
    """Measures the encoder alone."""
    command = [sys.executable, "-c", BARE, str(model), str(source)]
    rate, share = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return float(rate), float(share)


def job(model: Path, source: Path, output: Path) -> Measured:
    """Measures a job in its middle."""
    values = {
        "source": {"rows": {"path": f"{source}/*.parquet"}},
        "model": {"name": str(model)},
        "output": {"path": str(output), "rows_per_shard": 400},  # small files do not share a split
    }
    with _replica_watched() as looks:
        run(values, output.with_suffix(".json"))
    records = pq.read_table(output / "manifest.parquet")
    begun, ended = middle(records)
    times, busy = zip(*looks, strict=True)
    assert times[0] < begun < ended < times[-1] + LOOK_SECONDS, "the replica was not watched all the time"
    spent = np.interp(ended, times, busy) - np.interp(begun, times, busy)
    return steady(records, "tokens"), float(spent / (ended - begun) / (os.cpu_count() or 1))


@contextmanager
def _replica_watched() -> Iterator[Sequence[tuple[float, float]]]:
    """Collects moments, and the seconds that the replica's process had been busy by then."""
    looks: list[tuple[float, float]] = []
    over = Event()

    def look() -> None:
        replica = None
        while not over.wait(LOOK_SECONDS):
            try:
                if replica := replica or _replica():
                    times = replica.cpu_times()
                    looks.append((time.time(), times.user + times.system))
            except psutil.NoSuchProcess:
                return  # the run is over

    thread = Thread(target=look)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()


def _replica() -> psutil.Process | None:
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # the process has just ended
            if " ".join(each.cmdline()).startswith(REPLICA):
                return each
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=12_000)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    print("| | tokens/s (least to most) | of the bare encoder | of the processors (least to most) |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = make_model(folder / "model", "albert-mini")
        source = corpus(folder, model, told.tokens, told.splits)
        alone: list[Measured] = []
        whole: list[Measured] = []
        for number in range(told.rounds):
            alone.append(bare(model, source))
            whole.append(job(model, source, folder / f"out{number}"))
        for name, runs in (("bare encoder", alone), ("whole job, in its middle", whole)):
            rates, shares = zip(*runs, strict=True)
            kept = statistics.median(rates) / statistics.median(rate for rate, _ in alone)
            print(f"| {name} | {spread(rates, ',.0f')} | {kept:.3f} | {spread(shares, '.3f')} |")


if __name__ == "__main__":
    main()
