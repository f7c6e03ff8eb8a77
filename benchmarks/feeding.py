"""Measures the cost of feeding a device: CPU seconds to read, tokenize and write a million rows.

    python -m benchmarks.feeding [CORPORA] [--rate 20000] [--rounds 5]

The texts are Python's docstrings, and with CORPORA (`benchmarks.corpora`) film reviews and glosses; shards
have 768 floats. The stages run one after the other in this process, without Ray and without a model: vectors
are random. CPU seconds are those of all threads. The last column says how many CPUs keep a device busy that
embeds `--rate` rows per second.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.corpora import docstrings
from benchmarks.encoder import MIXES, make_model
from benchmarks.spread import spread
from pipeline.config.load import parse_config
from pipeline.dataset import writer
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.embed import read as read_stage
from pipeline.embed.job import Job
from pipeline.embed.split import PackedTable
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.output_spec import OutputSpec
from pipeline.plan.make import make_plan
from pipeline.plan.plan import Split
from pipeline.source import reader

DIMENSION = 768
ROWS_PER_SPLIT = 20_000
MAX_ROWS = 60_000


@dataclass(frozen=True)
class Spent:
    """The CPU seconds of one pass over a corpus, by stage."""

    rows: int
    text_bytes: int
    read: float
    tokenize: float
    write: float


def corpus(mix: str, corpora: Path | None, folder: Path) -> Path:
    """Writes a Parquet file of many texts, by repeating the given ones."""
    if corpora is None or MIXES[mix] is None:
        texts = docstrings(folder)
    else:
        table = pq.read_table(corpora / "english.parquet")
        texts = table.filter(pc.match_substring(table["source"], MIXES[mix]))["text"]
    path = folder / f"{mix}.parquet"
    pq.write_table(pa.table({"text": texts.slice(0, MAX_ROWS)}), path, row_group_size=ROWS_PER_SPLIT)
    return path


def job(source: Path, output: Path, model: Path) -> tuple[list[Split], Job]:
    """Returns the splits of a corpus, and the arguments of the stages."""
    values = {
        "source": {"rows": {"path": str(source)}},
        "model": {"name": str(model)},
        "output": {"path": str(output), "rows_per_shard": ROWS_PER_SPLIT, "max_split_bytes": 1 << 30},
    }
    parsed = parse_config(values)
    found = checkpoint.resolve(str(model))
    made = make_plan(parsed, found, "digest")
    identity, recipe = Identity.of(parsed, found), EmbeddingSpec.of(found, parsed.model)
    digests = identity.vector_digest, found.tokenizer_digest
    return list(made.splits()), Job(parsed, made.columns, recipe, identity.outputs, None, *digests, "attempt")


def measure(splits: list[Split], told: Job, output: Path) -> Spent:
    """Runs one pass, and writes every shard to a folder of its own."""
    spent = {"read": 0.0, "tokenize": 0.0, "write": 0.0}
    rows = text_bytes = 0
    tokenizer = told.tokenizer()
    for split_id, pieces in splits:
        started = time.process_time()
        [(_, parts)] = reader.read_splits([(split_id, pieces)], told.config, told.columns)
        documents = reader.usable(parts)
        texts = pa.concat_arrays([part.texts for part in documents])
        read = time.process_time()
        tokens = tokenizer.encode(texts)
        tokenized = time.process_time()
        found = pa.concat_tables([part.rows for part in documents])
        table = read_stage._rows_of_texts(found, tokens, None)
        vectors = np.random.default_rng(0).standard_normal((table.num_rows, DIMENSION), np.float32)
        began = time.process_time()
        contents = writer.Contents(
            split_id, table, {"embedding": vectors},
            pa.concat_tables([part.rejects for part in documents]), [part.consumed() for part in parts],
            OutputSpec(dimension=DIMENSION),
        )  # fmt: skip
        PackedTable.of(table)  # as it travels between the stages
        writer.write(Dataset(str(output)), contents, _figures())
        spent["read"] += read - started
        spent["tokenize"] += tokenized - read
        spent["write"] += time.process_time() - began
        rows += table.num_rows
        text_bytes += sum(len(text) for text in texts.cast(pa.large_binary()).to_pylist())
    return Spent(rows, text_bytes, **spent)


def _figures() -> dict[str, float | int | str]:
    numbers = ("computed_tokens", "padded_tokens", "text_bytes", "read_bytes", "cache_hits", "cache_misses")
    seconds = ("read_seconds", "tokenize_seconds", "encode_seconds", "idle_seconds")
    return dict.fromkeys(numbers, 0) | dict.fromkeys(seconds, 0.0) | {"attempt": "attempt"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpora", nargs="?", type=Path)
    parser.add_argument("--rate", type=float, default=20_000, help="rows per second of one device")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("CPU seconds for a million rows (median, and least to most)\n")
    print(f"| texts | bytes | read | tokenize | write | CPUs for {arguments.rate:,.0f} rows/s |")
    print("|---|---|---|---|---|---|")
    mixes = MIXES if arguments.corpora else ["docstrings"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = make_model(folder / "model", "albert-mini")
        for mix in mixes:
            splits, told = job(corpus(mix, arguments.corpora, folder), folder / "out", model)
            passes = [
                measure(splits, told, folder / f"{mix}{number}") for number in range(arguments.rounds + 1)
            ]
            _print(mix, passes[1:], arguments.rate)  # the first one fills the cache of words


def _print(mix: str, passes: list[Spent], rate: float) -> None:
    cells, cpus = [], 0.0
    for stage in ("read", "tokenize", "write"):
        seconds = [getattr(spent, stage) * 1e6 / spent.rows for spent in passes]
        cpus += statistics.median(seconds) * rate / 1e6
        cells.append(spread(seconds, ".1f"))
    mean = passes[0].text_bytes / passes[0].rows
    print(f"| {mix} | {mean:.0f} | {' | '.join(cells)} | {cpus:.2f} |")


if __name__ == "__main__":
    main()
