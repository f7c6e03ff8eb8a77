"""Compares the tokenizer's speed with AutoTokenizer's, on one thread; prints Markdown tables.

    python -m benchmarks.corpora FOLDER
    python -m benchmarks.tokenizer FOLDER [MODEL]

Contenders take turns on the two halves of the corpus. Seconds are the process's own CPU seconds, so a busy
machine distorts little; only ratios within one run mean much. Documents are cut into texts of 1,500
characters, so that stopping early gains nothing.
"""

import cProfile
import json
import os
import pstats
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from pipeline.model.checkpoint import Checkpoint, resolve
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer

MAX_TOKENS = 512
BATCH = 1000
STAGES = {
    "split": "find words, hash them", "find": "look words up", "distinct": "distinct unseen words",
    "strings": "copy unseen words", "cut": "cut unseen words", "cut_long": "cut words over 128 bytes",
    "add": "remember words", "_gather": "gather ids",
}  # fmt: skip

Encode = Callable[[pa.Array], int]
"""A function that encodes texts, and returns the number of ids."""


def contenders(where: Checkpoint, folder: Path) -> dict[str, Encode]:
    """Returns the other contenders: `transformers` in its usual form, and the library below it."""
    backend = load_backend(where.folder)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True, "keep_accents": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text((where.folder / "config.json").read_text())
    auto = AutoTokenizer.from_pretrained(folder)
    backend.enable_truncation(MAX_TOKENS)

    def by_auto(batch: list[str]) -> int:
        return sum(map(len, auto(batch, truncation=True, max_length=MAX_TOKENS).input_ids))

    def by_library(batch: list[str]) -> int:
        return sum(len(encoding.ids) for encoding in backend.encode_batch_fast(batch))

    return {"AutoTokenizer": in_batches(by_auto), "encode_batch_fast": in_batches(by_library)}


def in_batches(encode: Callable[[list[str]], int]) -> Encode:
    return lambda texts: sum(encode(texts[at : at + BATCH].to_pylist()) for at in range(0, len(texts), BATCH))


def ours(tokenizer: Tokenizer) -> Encode:
    return lambda texts: len(tokenizer.encode(texts).ids)


def timed(encode: Encode, texts: pa.Array) -> np.ndarray:
    """The megabytes, ids and seconds of a measurement."""
    begun = time.process_time()
    tokens = encode(texts)
    return np.array([pc.sum(pc.binary_length(texts)).as_py() / 1e6, tokens, time.process_time() - begun])


def natural(texts: pa.Array, where: Checkpoint, others: dict[str, Encode]) -> None:
    """Prints the throughput on natural text."""
    half = len(texts) // 2
    halves = texts[:half], texts[half:]
    sums: Counter[str] = Counter()
    for this, other in (halves, halves[::-1]):
        tokenizer = Tokenizer(where, MAX_TOKENS)
        for name, encode in others.items():
            sums[name] = sums[name] + timed(encode, this)
        for name, part in (
            ("empty cache", other),
            ("cache of the other half", this),
            ("texts seen before", this),
        ):
            sums[f"ours, {name}"] = sums[f"ours, {name}"] + timed(ours(tokenizer), part)
    print(f"\n{sums['AutoTokenizer'][0]:.0f} MB of English in {len(texts)} texts\n")
    print("| | MB/s | M ids/s | times AutoTokenizer |\n|---|---|---|---|")
    for name, (megabytes, tokens, seconds) in sums.items():
        ratio = sums["AutoTokenizer"][2] / seconds
        print(f"| {name} | {megabytes / seconds:.2f} | {tokens / seconds / 1e6:.2f} | {ratio:.1f} |")
    assert len({int(tokens) for _, tokens, _ in sums.values()}) == 1, "contenders differ"


def time_by_stage(texts: pa.Array, where: Checkpoint) -> None:
    """Prints where this tokenizer spends its time."""
    half = len(texts) // 2
    tokenizer = Tokenizer(where, MAX_TOKENS)
    parts = (("empty", texts[:half]), ("other half", texts[half:]), ("seen", texts[half:]))
    columns = {name: profiled(tokenizer, part) for name, part in parts}
    print("\n| seconds | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for stage in (*STAGES.values(), "all"):
        print(
            f"| {stage} | " + " | ".join(f"{column.get(stage, 0):.2f}" for column in columns.values()) + " |"
        )
    cache = tokenizer.cache
    print(f"\n{cache.words} words in {cache.nbytes / 1e6:.0f} MB; hits {cache.hits}, misses {cache.misses}")


def profiled(tokenizer: Tokenizer, texts: pa.Array) -> dict[str, float]:
    profile = cProfile.Profile()
    profile.runcall(tokenizer.encode, texts)
    stats: Any = pstats.Stats(profile)
    found = {"all": stats.total_tt}
    for (file, _, name), (*_, cumulative, callers) in stats.stats.items():
        outer = any(caller[2] in ("_spans", "_words", "_by_words") for caller in callers)
        if name in STAGES and "pipeline" in file and outer:
            found[STAGES[name]] = cumulative
    return found


def worst_cases(folder: Path, where: Checkpoint, auto: Encode) -> None:
    """Prints the times of texts that suit word-by-word tokenizing badly."""
    print("\n| | AutoTokenizer, s | ours, s | times AutoTokenizer |\n|---|---|---|---|")
    for name, texts in hard_texts(folder):
        times = [
            (timed(auto, texts)[2], timed(ours(Tokenizer(where, MAX_TOKENS)), texts)[2]) for _ in range(2)
        ]
        others, own = (min(column) for column in zip(*times, strict=True))
        print(f"| {name} | {others:.3f} | {own:.3f} | {others / own:.2f} |")


def hard_texts(folder: Path) -> Iterator[tuple[str, pa.Array]]:
    languages, english = (pq.read_table(folder / f"{name}.parquet") for name in ("languages", "english"))
    chinese = languages.filter(pc.match_substring(languages["source"], "zh"))["text"].to_pylist()
    unbroken = re.sub(r"[\x00-\x7f\s]+", "", "".join(chinese))
    prose = " ".join(english.filter(pc.equal(english["source"], "reviews"))["text"].to_pylist()[:12_000])
    random = np.random.default_rng(0)
    alphabet = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
    base64 = random.choice(alphabet, 10_000_000).tobytes().decode()
    words = np.random.default_rng(0).choice(prose.split(), 500_000).tolist()
    yield "Chinese without spaces, 300 characters per text", pa.array(pieces(unbroken[:2_000_000], 300))
    yield "Chinese without spaces, one text of 1 M characters", pa.array([unbroken[:1_000_000]])
    yield "base64, 1,000 characters per text, 5 MB", pa.array(pieces(base64[:5_000_000], 1000))
    lines = "\n".join(pieces(base64[:5_000_000], 76))
    yield "base64, 76 characters per line, one text of 5 MB", pa.array([lines])
    yield "base64, 60 characters per text, 5 MB", pa.array(pieces(base64[:5_000_000], 60))
    yield "base64, one word of 2 MB", pa.array([base64[:2_000_000]])
    yield "one word per text, 500,000 texts", pa.array(words)
    yield "one document of 10 MB", pa.array([prose[:10_000_000]])


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def full_cache(where: Checkpoint) -> None:
    """Prints the memory on a stream of unique words that is longer than the cache."""
    tokenizer = Tokenizer(where, MAX_TOKENS)
    process = psutil.Process()
    before, most, words = process.memory_info().rss, 0, 0
    for start in range(0, 3_500_000, 50_000):
        line = " ".join(f"x{number * 2654435761 % (1 << 32):x}" for number in range(start, start + 50_000))
        tokenizer.encode(pa.array(pieces(line, 1500)))
        most, words = max(most, tokenizer.cache.nbytes), max(words, tokenizer.cache.words)
    grown = process.memory_info().rss - before
    cache = tokenizer.cache
    print(f"3.5 M unique words: at most {words} cached, in {most / 1e6:.0f} MB; bounds: {cache.max_words}")
    print(
        f"words, {cache.max_bytes} bytes of text and ids; renewed {cache.renewals} times; the process grew by"
    )
    print(f"{grown / 1e6:.0f} MB")


def main(folder: Path, model: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    where = resolve(model)
    full_cache(where)  # first, while the process is small
    documents = pq.read_table(folder / "english.parquet")["text"].to_pylist()
    texts = pa.array([piece for document in documents for piece in pieces(document, 1500)])
    texts = texts.take(pa.array(np.random.default_rng(0).permutation(len(texts))))
    with tempfile.TemporaryDirectory() as scratch:
        others = contenders(where, Path(scratch))
    natural(texts, where, others)
    time_by_stage(texts, where)
    worst_cases(folder, where, others["AutoTokenizer"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "albert-mini")
