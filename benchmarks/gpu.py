"""Measures the encoder on a GPU: its share of the GPU's matrix rate, each form of a layer, and a peer.

    python -m benchmarks.gpu [--tokens 3000000] [--rounds 3] [--model FOLDER]

It needs no corpora and no network. Weights are random, of albert-base geometry. Token ids are drawn, in three
mixes of lengths (lognormal): titles (median 18), docstrings (60), articles (330). Useful work is the matrix
products of the texts' own tokens, with attention as long as each text itself. The reference is the rate of a
bare product of 8,192 x 8,192 in bfloat16, measured before and after. For the comparison with
sentence-transformers, texts are made of the vocabulary's words, and the time of both tokenizers counts. It
prints Markdown.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.encoder import make_model, sentence_transformer, useful_flops
from pipeline.model import fused_layer
from pipeline.model.batching import TokenBatch
from pipeline.model.checkpoint import resolve
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.ragged import offsets_from_lengths

MIXES = {"titles": (18, 0.45), "docstrings": (60, 1.0), "articles": (330, 0.5)}
"""The median of the lengths, and the spread of their logarithm."""
FORMS: dict[str, Callable[[torch.nn.Module, str], torch.nn.Module]] = {
    "plain": lambda layer, _: layer,
    "fused, torch's operators": lambda layer, activation: fused_layer.FusedLayer(
        layer, activation, with_kernels=False
    ),
    "fused, Triton's kernels": fused_layer.quickest,
}
LIBRARY_BATCH = 512
SIDE = 8192


def token_batch(mix: str, tokens: int, seed: int = 0) -> TokenBatch:
    """Draws texts of about `tokens` tokens."""
    median, spread = MIXES[mix]
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.lognormal(np.log(median), spread, 2 * tokens // median + 16), 3, 512).astype(
        np.int64
    )
    lengths = lengths[: max(1, int(np.searchsorted(np.cumsum(lengths), tokens)))]
    ids = draw.integers(5, 16_000, lengths.sum()).astype(np.uint16)
    return TokenBatch(ids, offsets_from_lengths(lengths), np.zeros(len(lengths), np.bool_))


def texts_of(mix: str, tokens: int, folder: Path) -> list[str]:
    """Draws texts of whole words, of about `tokens` tokens."""
    pieces = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = [piece[1:] for piece, _ in pieces if piece.startswith("▁") and piece[1:].isalpha()]
    draw = np.random.default_rng(1)
    lengths = token_batch(mix, tokens).lengths - 2
    return [" ".join(words[word] for word in draw.integers(0, len(words), length)) for length in lengths]


def seconds_of(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Returns the seconds of a call, until the device was done with it, and its result."""
    _wait(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - start, result


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak(device: str, side: int, products: int = 50) -> float:
    """Returns the FLOP/s of a bare product of two square matrices."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    _ = left @ right
    spent, _ = seconds_of(lambda: [left @ right for _ in range(products)][-1], device)
    return 2.0 * side**3 * products / spent


def forms(folder: Path, arguments: argparse.Namespace, rate: float) -> None:
    """Prints each form of a layer on each mix."""
    print(
        "| layers | texts | tokens/s | TFLOP/s of useful work | of the bare product | least cosine to plain |"
    )
    print("|---|---|---|---|---|---|")
    reference: dict[str, Any] = {}
    usual = fused_layer.quickest
    for name, form in FORMS.items():
        fused_layer.quickest = form  # type: ignore[assignment]
        encoder = Encoder(folder, device=arguments.device, dtype="bfloat16")
        fused_layer.quickest = usual
        encoder.encode(token_batch("titles", min(200_000, arguments.tokens), 7))
        for mix in MIXES:
            tokens = token_batch(mix, arguments.tokens)
            work = partial(encoder.encode, tokens)
            runs = [seconds_of(work, arguments.device) for _ in range(arguments.rounds)]
            spent, vectors = statistics.median(spent for spent, _ in runs), runs[-1][1]
            near = least_cosine(vectors, reference.setdefault(mix, vectors))
            useful = useful_flops(tokens) / spent
            speed = f"{tokens.lengths.sum() / spent:,.0f} | {useful / 1e12:,.1f} | {useful / rate:.3f}"
            print(f"| {name} | {mix} | {speed} | {near:.6f} |", flush=True)


def precision(folder: Path, arguments: argparse.Namespace) -> None:
    """Prints the least cosine of bfloat16 to float32."""
    print("\n| texts | least cosine of bfloat16 to float32 |\n|---|---|")
    quick, exact = (
        Encoder(folder, device=arguments.device, dtype=dtype) for dtype in ("bfloat16", "float32")
    )
    for mix in MIXES:
        tokens = token_batch(mix, max(500, arguments.tokens // 16), 3)
        print(f"| {mix} | {least_cosine(quick.encode(tokens), exact.encode(tokens)):.6f} |", flush=True)


def peer(folder: Path, arguments: argparse.Namespace) -> None:
    """Compares this encoder with sentence-transformers in bfloat16, in alternating rounds."""
    print("\n| texts | ours, tokens/s | sentence-transformers, bfloat16 | ours is faster by | least cosine |")
    print("|---|---|---|---|---|")
    tokenizer = Tokenizer(resolve(str(folder)))
    ours = Encoder(folder, device=arguments.device, dtype="bfloat16")
    theirs = sentence_transformer(folder, arguments.device).to(torch.bfloat16)
    for mix in MIXES:
        texts = texts_of(mix, arguments.tokens // 8, folder)
        column = pa.array(texts, pa.large_string())
        count = int(tokenizer.encode(column).lengths.sum())
        both = []
        mine = partial(_ours, ours, tokenizer, column)
        library = partial(theirs.encode, texts, batch_size=LIBRARY_BATCH, show_progress_bar=False)
        for _ in range(arguments.rounds + 1):  # the first one is a warm-up
            (quick, found), (slow, wanted) = (seconds_of(work, arguments.device) for work in (mine, library))
            both.append((quick, slow))
        quick, slow = (statistics.median(each) for each in zip(*both[1:], strict=True))
        rates = f"{count / quick:,.0f} | {count / slow:,.0f} | {slow / quick:.1f}"
        print(f"| {mix} | {rates} | {least_cosine(found, np.asarray(wanted, np.float32)):.6f} |", flush=True)


def _ours(encoder: Encoder, tokenizer: Tokenizer, column: pa.Array) -> Any:
    return encoder.encode(tokenizer.encode(column))


def least_cosine(left: Any, right: Any) -> float:
    """Returns the least cosine of two sets of vectors, pair by pair."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / lengths).min())


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="albert-mini", help="the model with the vocabulary")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--side", type=int, default=SIDE)
    arguments = parser.parse_args()
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "no GPU"
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch), arguments.model)
        rate = peak(arguments.device, arguments.side)
        print(f"{card}, torch {torch.__version__}. Bare product: {rate / 1e12:,.1f} TFLOP/s.\n")
        forms(folder, arguments, rate)
        precision(folder, arguments)
        peer(folder, arguments)
        print(f"\nBare product at the end: {peak(arguments.device, arguments.side) / 1e12:,.1f} TFLOP/s.")


if __name__ == "__main__":
    main()
