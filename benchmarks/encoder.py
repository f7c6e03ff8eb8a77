"""Compares the encoder with transformers, sentence-transformers and the bare matrix product.

    python -m benchmarks.encoder CORPORA [--device cuda] [--model FOLDER] [--texts 300] [--rounds 3]

Weights are random, of albert-base geometry; the vocabulary is that of the named model (`albert-mini` by
default). There are three mixes of lengths: docstrings, film reviews (long), glosses (short). Each contender
gets the same texts, and the rounds alternate (transformers, by far the slowest, runs only in the first).
Useful tokens are those of the texts, not of padding. Useful work is the matrix products of these tokens: all
linear layers, and attention as long as each text itself. The bare rate is that of the model's own linear
layers, with torch's `linear`, on 1,024 (CPU) or 16,384 (CUDA) rows, in the same dtype with the same threads,
measured in each round.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AlbertConfig, AlbertModel, AutoTokenizer

from benchmarks import corpora
from pipeline.model.batching import TokenBatch
from pipeline.model.checkpoint import resolve
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer

BASE = {
    "embedding_size": 128, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "hidden_act": "gelu_new",
}  # fmt: skip
MIXES = {"docstrings": None, "articles": "reviews", "titles": "wordnet"}
PLAIN_BATCH = 32
HEADER = (
    "| texts | by | useful tokens/s | GFLOP/s | of bare | of the library | seconds | least cosine to ours |"
)
Contender = Callable[[list[str]], Any]


def texts_of(mix: str, folder: Path, count: int) -> list[str]:
    """Returns `count` texts of a mix, drawn with a fixed seed."""
    if mix == "docstrings":
        column = corpora.docstrings(folder)
    else:
        table = pq.read_table(folder / "english.parquet")
        column = table.filter(pc.match_substring(table["source"], MIXES[mix]))["text"]
    rows = np.random.default_rng(0).choice(len(column), count, replace=False)
    return list(column.take(pa.array(rows)).to_pylist())


def make_model(folder: Path, vocabulary: str) -> Path:
    """Writes a model of albert-base geometry with seeded weights as safetensors; may make the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = resolve(vocabulary).folder
    # As tokenizer.json, so that all contenders get the same ids (docs/tokenizer.md).
    load_backend(source).save(str(folder / "tokenizer.json"))
    shutil.copy(source / "tokenizer_config.json", folder / "tokenizer_config.json")
    size = json.loads((source / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = AlbertConfig(vocab_size=size, **BASE)
    config.save_pretrained(folder)
    weights = AlbertModel(config, add_pooling_layer=False).state_dict()
    save_file({name: each.contiguous() for name, each in weights.items()}, folder / "model.safetensors")
    return folder


def plain(folder: Path, device: str, dtype: torch.dtype) -> Contender:
    """Returns transformers as it is: padded batches of 32 in input order, the mean of the real tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AlbertModel.from_pretrained(folder, dtype=dtype).to(device).eval()

    @torch.inference_mode()
    def encode(texts: list[str]) -> Any:
        found = []
        for start in range(0, len(texts), PLAIN_BATCH):
            inputs = tokenizer(
                texts[start : start + PLAIN_BATCH],
                padding=True,
                truncation=True,
                max_length=512,
                return_tensors="pt",
            ).to(device)
            hidden = model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"].unsqueeze(-1)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            found.append(torch.nn.functional.normalize(pooled, dim=-1).cpu())
        return torch.cat(found).numpy()

    return encode


def sentence_transformer(folder: Path, device: str) -> SentenceTransformer:
    """Returns a model in the form of sentence-transformers: mean of the tokens, length 1."""
    parts = [Transformer(str(folder), max_seq_length=512), Pooling(BASE["hidden_size"], "mean"), Normalize()]
    return SentenceTransformer(modules=parts, device=device)


def library(folder: Path, device: str, dtype: torch.dtype) -> Contender:
    """Returns sentence-transformers' `encode`, with its own sorting and its default batch of 32."""
    model = sentence_transformer(folder, device).to(dtype)
    return lambda texts: model.encode(texts, show_progress_bar=False)


def ours(folder: Path, device: str, dtype: str, tokenizer: Tokenizer) -> Contender:
    """Returns this project's encoder; the tokenizer's time counts, as it does for the others."""
    encoder = Encoder(folder, device=device, dtype=dtype)
    return lambda texts: encoder.encode(tokenizer.encode(pa.array(texts, pa.large_string())))


def useful_flops(tokens: TokenBatch) -> float:
    """Returns the matrix work of the texts' own tokens (multiply and add count as two)."""
    hidden, inner, layers = (BASE[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    lengths = tokens.lengths.astype(np.float64)
    linear = 2.0 * (4 * hidden * hidden + 2 * hidden * inner) * lengths.sum()
    attention = 4.0 * hidden * (lengths**2).sum()
    mapping = 2.0 * BASE["embedding_size"] * hidden * lengths.sum()
    return float(layers * (linear + attention) + mapping)


def bare_rate(device: str, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Returns the FLOP/s of the model's linear layers alone."""
    rows, hidden, inner = 16_384 if device == "cuda" else 1024, BASE["hidden_size"], BASE["intermediate_size"]
    narrow, wide = (torch.randn(rows, size, device=device, dtype=dtype) for size in (hidden, inner))
    square, up, down = (
        torch.randn(shape, device=device, dtype=dtype)
        for shape in ((hidden, hidden), (inner, hidden), (hidden, inner))
    )

    def layer() -> None:
        for _ in range(4):
            torch.nn.functional.linear(narrow, square)
        torch.nn.functional.linear(narrow, up)
        torch.nn.functional.linear(wide, down)

    flops = 2.0 * rows * (4 * hidden * hidden + 2 * hidden * inner)
    layer()
    _wait(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        layer()
        _wait(device)
        count += 1
    return flops * count / (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(contender: Contender, texts: list[str], device: str) -> tuple[float, Any]:
    """Returns the seconds of a call, and the vectors."""
    start = time.perf_counter()
    vectors = contender(texts)
    _wait(device)
    return time.perf_counter() - start, vectors


def measure(
    mix: str, texts: list[str], contenders: dict[str, Contender], arguments: Any, tokens: TokenBatch
) -> None:
    """Alternates the contenders, and prints a row for each."""
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    bare, vectors = [], {}
    for contender in contenders.values():
        contender(texts[:8])  # warm-up
    for number in range(arguments.rounds):
        bare.append(bare_rate(arguments.device, dtype))
        for name, contender in contenders.items():
            if name != "transformers" or number == 0:  # by far the slowest, and only a reference
                spent, vectors[name] = timed(contender, texts, arguments.device)
                seconds[name].append(spent)
    total, rate = int(tokens.lengths.sum()), statistics.median(bare)
    for name, times in seconds.items():
        spent = statistics.median(times)
        flops = useful_flops(tokens) / spent
        against = statistics.median(seconds["sentence-transformers"]) / spent
        near = (vectors[name] * vectors["ours"]).sum(1).min()
        speed = f"{total / spent:,.0f} | {flops / 1e9:,.0f} | {_ratio(flops, rate, name)} | {against:.2f}"
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"| {mix} | {name} | {speed} | {spread} | {near:.6f} |", flush=True)
    print(f"| {mix} | bare matrix product | | {rate / 1e9:,.0f} | 1.00 | | | |", flush=True)


def _ratio(flops: float, rate: float, name: str) -> str:
    """Returns the fraction of the bare rate, if that has the same dtype."""
    return "" if name == "ours, float32" else f"{flops / rate:.2f}"


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="albert-mini", help="the model with the vocabulary")
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixes", nargs="*", default=list(MIXES))
    arguments = parser.parse_args()
    if set(arguments.mixes) - {"docstrings"}:
        corpora.make(arguments.corpora)
    on_cuda = arguments.device == "cuda"
    dtype, dtype_name = (torch.bfloat16, "bfloat16") if on_cuda else (torch.float32, "float32")
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch), arguments.model)
        tokenizer = Tokenizer(resolve(str(folder)))
        contenders = {
            "transformers": plain(folder, arguments.device, dtype),
            "sentence-transformers": library(folder, arguments.device, dtype),
            "ours": ours(folder, arguments.device, dtype_name, tokenizer),
        }
        if on_cuda:
            contenders["ours, float32"] = ours(folder, arguments.device, "float32", tokenizer)
        threads = torch.get_num_threads()
        print(f"torch {torch.__version__}, {threads} threads, {arguments.device}, {dtype_name}\n")
        print(HEADER)
        print("|---|---|---|---|---|---|---|---|")
        for mix in arguments.mixes:
            # Reviews are long: a third as many have the same number of tokens.
            count = arguments.texts // 3 if mix == "articles" else arguments.texts
            texts = texts_of(mix, arguments.corpora, count)
            tokens = tokenizer.encode(pa.array(texts, pa.large_string()))
            measure(mix, texts, contenders, arguments, tokens)


if __name__ == "__main__":
    main()
