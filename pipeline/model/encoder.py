"""Turns token ids into outputs: deduplicates, sorts, cuts into micro-batches, runs, restores the order.

Runs without Ray. A row's vector does not depend on the other rows of its split (to 1e-5 in float32). If
memory runs out, the budget of a micro-batch shrinks and the job goes on.

Shapes: N texts, U unique texts, B texts of a micro-batch, T tokens of a micro-batch, D numbers of a text,
K numbers of a token.
"""

import platform
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize

from pipeline import telemetry
from pipeline.errors import DeviceError
from pipeline.model import outputs
from pipeline.model.attention import Packing
from pipeline.model.batching import TokenBatch, micro_batches
from pipeline.model.checkpoint import Checkpoint, resolve
from pipeline.model.dense import dense_layer
from pipeline.model.device import (
    default_batch_tokens,
    device_failed,
    is_out_of_memory,
    lanes_of,
    require_dtype,
)
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.heads import VectorHead, text_heads, token_heads
from pipeline.model.pooling import pool
from pipeline.model.transformer import Transformer, load_transformer
from pipeline.model.unique_texts import UniqueTexts
from pipeline.model.vector_buffer import Numbers, VectorBuffer, moved, to_host
from pipeline.ragged import Ints

STRETCH = 2.0
"""The most padded places in attention, as a multiple of `batch_tokens`, for texts of very unequal lengths."""
MAX_TEXTS = 65_535
"""The most texts of a micro-batch on a GPU: the grid of torch's attention kernel has no more on that axis."""
MAX_AGAIN = 64
"""The most texts of a split that are computed again because their vectors are not finite."""
TRIES_ALONE = 3
"""The attempts at a text that fills the memory alone."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The results of N texts.

    values: (N, D) float32, the numbers of all outputs of texts side by side, in the order of the texts.
    of_tokens: (all tokens, K) float32, those of all outputs of tokens, in the order of the texts' ids.
    computed_tokens: tokens that the model ran; identical texts count once.
    padded_tokens: tokens that attention ran over, with padding; all else runs over real tokens only.
    too_large: (N,) bool, texts for which memory did not suffice even alone; their numbers are NaN.
    """

    values: npt.NDArray[np.float32]
    of_tokens: npt.NDArray[np.float32]
    computed_tokens: int
    padded_tokens: int
    too_large: npt.NDArray[np.bool_]


class Encoder:
    """A replica of a checkpoint.

    Args:
        model: a checkpoint, or its folder, Hub id, or `albert-mini`.
        dtype: `float32` or `bfloat16`, the model's arithmetic; pooling is always in float32.
        recipe: pooling and the steps after it; by default the checkpoint's own.
        batch_tokens: tokens of a micro-batch; by default the device's.
        threads: on a CPU, micro-batches at the same time; with a GPU, torch's own threads. By default torch's
            number.

    Raises:
        ModelError: the checkpoint can't be loaded.
    """

    def __init__(
        self,
        model: Checkpoint | str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        recipe: EmbeddingSpec | None = None,
        batch_tokens: int | None = None,
        threads: int | None = None,
    ) -> None:
        checkpoint = model if isinstance(model, Checkpoint) else resolve(str(model))
        self.checkpoint, self.recipe = checkpoint, recipe or EmbeddingSpec.of(checkpoint)
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        require_dtype(self.device, self.dtype)
        self.lanes = lanes_of(self.device, threads)
        with self._on_device():
            self.model = load_transformer(checkpoint, self.device, self.dtype)
        self.exact: Transformer | None = self.model if self.dtype == torch.float32 else None
        self.dense = [dense_layer(dense, self.device) for dense in self.recipe.dense]
        self.outputs = self.recipe.output_spec(checkpoint)
        self.heads = text_heads(checkpoint, self.recipe, self.device)
        self.vector_head = VectorHead(self.recipe.head, self.device) if self.recipe.head else None
        self.token_heads = token_heads(checkpoint, self.recipe, self.device)
        self.widths = outputs.width(self.outputs), outputs.token_width(self.outputs)
        self.batch_tokens = batch_tokens or default_batch_tokens(self.device, checkpoint.size("hidden_size"))

    def encode(self, tokens: TokenBatch) -> npt.NDArray[np.float32]:
        """Returns a vector for each text, (N, D); NaN for a text for which memory did not suffice."""
        return outputs.parted(self.run(tokens).values, self.outputs)["embedding"]

    def run(self, tokens: TokenBatch) -> Encoded:
        """Returns the numbers of all outputs, and the cost; identical token ids are run once.

        Raises:
            DeviceError: the device failed; CUDA's errors last as long as the process.
        """
        try:
            with self._on_device():
                return self._run(tokens)
        except RuntimeError as error:
            if not device_failed(error, self.device):
                raise
            where, got = f"{self.device} on {platform.node()}", str(error).partition("\n")[0]
            hint = "check the node's GPU: nvidia-smi, dmesg"
            raise DeviceError("the device failed", where, got, hint) from error

    @torch.inference_mode()
    def _run(self, tokens: TokenBatch) -> Encoded:
        unique, which_N = UniqueTexts.of(tokens)
        results = VectorBuffer.near(self.device, unique.lengths, which_N, self.widths)
        # A single text can't be made smaller, but there may be room once the others are done.
        for text_1 in self._run_batches(unique, results):
            tries = (self._begin(unique, text_1)() for _ in range(TRIES_ALONE))
            found = next((each for each in tries if each is not None), None)
            if found is None:
                telemetry.warn("out of memory for one text", tokens=unique.size(text_1))
            else:
                results.add(text_1, found, self._attended(unique.lengths[text_1]))
        self._again(unique, results)
        missing_U = results.missing
        computed = int(unique.lengths[~missing_U].sum())
        if len(unique.first) == len(which_N):  # all distinct: already in order
            values, of_tokens = to_host(results.vectors), to_host(results.of_tokens)
            return Encoded(values, of_tokens, computed, results.padded, missing_U)
        values, of_tokens = to_host(results.of(which_N)), to_host(results.tokens_of(which_N))
        return Encoded(values, of_tokens, computed, results.padded, missing_U[which_N])

    def _again(self, unique: UniqueTexts, results: VectorBuffer) -> None:
        """Computes texts whose vectors are not finite again: each alone, in float32.

        A value that float32 holds can overflow in bfloat16, and a device can err once.
        """
        strange = results.not_finite()
        if not len(strange):
            return
        telemetry.warn("vectors that are not finite", texts=len(strange), again=min(len(strange), MAX_AGAIN))
        try:
            self.exact = self.exact or load_transformer(self.checkpoint, self.device, torch.float32)
        except torch.OutOfMemoryError:
            telemetry.warn("no memory for the model in float32")
            return
        for text_1 in strange[:MAX_AGAIN, None]:
            found = self._attempt(unique, text_1, self.exact)
            if found is not None:
                results.replace(text_1, found)

    def _run_batches(self, unique: UniqueTexts, results: VectorBuffer) -> list[Ints]:
        """Runs all texts in micro-batches; returns those that are too large even alone, an array for each."""
        waiting = deque(self._cut(unique.lengths, np.arange(len(unique.lengths))))
        begun: deque[tuple[Ints, Callable[[], Numbers | None]]] = deque()
        too_large: list[Ints] = []
        while waiting or begun:
            while waiting and len(begun) < self.lanes.ahead:
                begun.append((waiting[0], self._begin(unique, waiting.popleft())))
            batch_B, finished = begun.popleft()
            found, size = finished(), unique.size(batch_B)
            telemetry.heartbeat()
            if found is not None:
                results.add(batch_B, found, self._attended(unique.lengths[batch_B]))
            elif len(batch_B) == 1:
                too_large.append(batch_B)
            elif size > self.batch_tokens // 2:
                if size <= self.batch_tokens:  # otherwise it was begun before the budget shrank
                    self._shrink(size)
                waiting = deque(self._cut(unique.lengths, np.concatenate([batch_B, *waiting])))
            else:  # it was far below the budget, so the budget is not to blame
                waiting.extendleft(np.array_split(batch_B, 2)[::-1])
        return too_large

    def _attended(self, lengths_B: Ints) -> int:
        """Returns the number of tokens that attention runs over for a micro-batch."""
        return int(lengths_B.sum() if self.model.varlen else len(lengths_B) * lengths_B.max())

    def _cut(self, lengths_U: Ints, chosen: Ints) -> list[Ints]:
        """Cuts the chosen texts into micro-batches."""
        stretch = np.inf if self.model.varlen else STRETCH
        batches = micro_batches(lengths_U[chosen], self.batch_tokens, stretch, MAX_TEXTS)
        return [chosen[batch] for batch in batches]

    def _begin(self, unique: UniqueTexts, batch_B: Ints) -> Callable[[], Numbers | None]:
        """Begins a micro-batch; returns a function that waits for the result of `_attempt`."""
        return self.lanes.begin(self._attempt, unique, batch_B)

    @torch.inference_mode()
    def _attempt(
        self, unique: UniqueTexts, batch_B: Ints, model: Transformer | None = None
    ) -> Numbers | None:
        """Returns the numbers on the device; None if memory did not suffice."""
        try:
            return self._forward(model or self.model, unique, batch_B)
        except RuntimeError as error:  # torch.OutOfMemoryError among them
            # The caller handles it, when the traceback no longer keeps the batch's tensors alive.
            if not is_out_of_memory(error):
                raise
            return None

    def _forward(self, model: Transformer, unique: UniqueTexts, batch_B: Ints) -> Numbers:
        """Returns the numbers on the device. Does not wait for it, so that it never waits for us."""
        ids_T, lengths_B, types_T = unique.ids(batch_B), unique.lengths[batch_B], unique.types(batch_B)
        lengths = moved(lengths_B, self.device)
        packing = Packing.of(lengths, len(ids_T), int(lengths_B.max()), model.varlen)
        if types_T is not None:
            packing = replace(packing, type_ids=moved(types_T, self.device))
        hidden_TD = model(moved(ids_T, self.device), packing)
        parts = [*self._of_vectors(hidden_TD, lengths), *(head(hidden_TD, lengths) for head in self.heads)]
        return Numbers(_beside(parts), _beside([head(hidden_TD) for head in self.token_heads]))

    def _of_vectors(self, hidden_TD: torch.Tensor, lengths_B: torch.Tensor) -> list[torch.Tensor]:
        """Returns what is kept of the vectors: themselves, and what a head says that was trained on them."""
        embeds = "embedding" in self.recipe.outputs
        if not (embeds or self.vector_head):
            return []
        vectors_BD = self._vectors(hidden_TD, lengths_B)
        said = [self.vector_head(vectors_BD)] if self.vector_head else []
        return [vectors_BD, *said] if embeds else said

    def _vectors(self, hidden_TD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Returns the vector of each text."""
        pooled_BD = pool(hidden_TD, lengths_B, self.recipe.pooling)
        for layer in self.dense:
            pooled_BD = layer(pooled_BD)
        pooled_BD = pooled_BD[:, : self.outputs.dimension]
        return normalize(pooled_BD, dim=-1) if self.recipe.normalize else pooled_BD

    def _on_device(self) -> AbstractContextManager[object]:
        """Makes the replica's GPU the current one of this thread, because kernels start there."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _shrink(self, tokens: int) -> None:
        """Halves the budget permanently: what did not fit once won't fit later."""
        self.batch_tokens = max(1, self.batch_tokens // 2)
        telemetry.warn("out of memory", tokens=tokens, batch_tokens=self.batch_tokens)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _beside(parts: list[torch.Tensor]) -> torch.Tensor | None:
    """Returns the numbers of several outputs side by side; None without an output."""
    return torch.cat(parts, dim=1) if len(parts) > 1 else next(iter(parts), None)
