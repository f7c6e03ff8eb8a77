"""What of the bare encoder's speed a whole job keeps: reading, transport and writing share its processors.

    python -m benchmarks.efficiency [--tokens 12000] [--splits 10] [--rounds 5]

Python's docstrings, a split of so many tokens a file: of some seconds, where by default one takes a minute.
Random weights of albert-base geometry. Bare: the encoder alone in a process, on the token ids of one split
after the other. The job: tokens a second from the shard at a quarter of them to that before the last tenth.
Both with all processors; the rounds alternate.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import docstrings
from benchmarks.encoder import make_model
from benchmarks.job import run
from benchmarks.simulated import steady
from pipeline.checkpoint import resolve
from pipeline.tokenizer import Tokenizer

BARE = """
import os, sys, time
from pathlib import Path
import pyarrow.parquet as pq
from pipeline.checkpoint import resolve
from pipeline.encoder import Encoder
from pipeline.tokenizer import Tokenizer
model = resolve(sys.argv[1])
encoder, tokenizer = Encoder(model, device="cpu", dtype="float32", threads=os.cpu_count()), Tokenizer(model)
splits = [
    tokenizer.encode(pq.read_table(file)["text"].combine_chunks().cast("large_string"))
    for file in sorted(Path(sys.argv[2]).glob("*.parquet"))
]
encoder.encode(splits[0])
begun = time.perf_counter()
for tokens in splits[1:]:
    encoder.encode(tokens)
print(sum(int(tokens.lengths.sum()) for tokens in splits[1:]) / (time.perf_counter() - begun))
"""


def corpus(folder: Path, model: Path, tokens: int, splits: int) -> Path:
    """Files of about so many tokens each, of texts drawn by a fixed seed."""
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


def bare(model: Path, source: Path) -> float:
    """Tokens a second of the encoder alone."""
    command = [sys.executable, "-c", BARE, str(model), str(source)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def job(model: Path, source: Path, output: Path) -> float:
    """Tokens a second of a job in its middle."""
    values = {
        "source": {"rows": {"path": f"{source}/*.parquet"}},
        "model": {"name": str(model)},
        "output": {"path": str(output), "rows_per_shard": 400},  # small files do not share a split
    }
    run(values, output.with_suffix(".json"))
    return steady(pq.read_table(output / "manifest.parquet"), "tokens")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=12_000)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    print("| | tokens/s (least to most) | of the bare encoder |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = make_model(folder / "model", "albert-mini")
        source = corpus(folder, model, told.tokens, told.splits)
        alone, whole = [], []
        for number in range(told.rounds):
            alone.append(bare(model, source))
            whole.append(job(model, source, folder / f"out{number}"))
        for name, rates in (("bare encoder", alone), ("whole job, in its middle", whole)):
            median = statistics.median(rates)
            spread = f"{median:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            print(f"| {name} | {spread} | {median / statistics.median(alone):.3f} |", flush=True)


if __name__ == "__main__":
    main()
