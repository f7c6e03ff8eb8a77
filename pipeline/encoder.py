"""Token ids become vectors: deduplicated, sorted, cut into micro-batches, run, and put back in order.

Runs without Ray. A row's vector does not depend on what else is in its split (to 1e-5 in float32). Running
out of memory costs a smaller budget, never the job.

Shapes: N texts, U unique texts, B texts of a micro-batch, T tokens of it, D dimensions.
"""

import platform
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import normalize

from pipeline import telemetry
from pipeline.albert import Albert
from pipeline.batching import TokenBatch, micro_batches
from pipeline.checkpoint import Checkpoint, resolve
from pipeline.errors import DeviceError, ModelError
from pipeline.lanes import Lanes, OneByOne
from pipeline.modules import Dense
from pipeline.pooling import pool
from pipeline.ragged import Ints, spread
from pipeline.recipe import Recipe

CPU_BATCH_TOKENS = 512
"""Of each lane. Larger ones are no faster, and leave lanes idle at the end of a split."""
STRETCH = 2.0
"""Most padded places that attention may need, over `batch_tokens`: for texts of very unlike lengths."""
CUDA_BATCH_TOKENS = 65_536
TRIES_ALONE = 3
"""How often a text that fills the memory alone is tried, before it is given up."""
ACTIVATION_BYTES = 32
"""Of a token on a GPU, per unit of hidden size, at the peak of a layer: a guess on the safe side."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of N texts.

    vectors: (N, D) float32, in the order of the texts.
    computed_tokens: those that the model ran: of identical texts, once.
    padded_tokens: those that attention ran over, padding included; all else runs over real ones alone.
    too_large: (N,) bool, texts for which memory did not suffice even alone; their vectors are NaN.
    """

    vectors: npt.NDArray[np.float32]
    computed_tokens: int
    padded_tokens: int
    too_large: npt.NDArray[np.bool_]


class Encoder:
    """One ALBERT replica.

    Args:
        model: a checkpoint, or its folder, Hub id, or `albert-mini`.
        dtype: `float32` or `bfloat16`, the model's arithmetic; pooling is always in float32.
        recipe: pooling and what follows it; the checkpoint's own when not given.
        batch_tokens: tokens of a micro-batch; the device's default when not given.
        threads: on a CPU, micro-batches at the same time; beside a GPU, torch's own. Torch's number when not
            given.

    Raises:
        ModelError: the checkpoint can't be loaded.
    """

    def __init__(
        self,
        model: Checkpoint | str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        recipe: Recipe | None = None,
        batch_tokens: int | None = None,
        threads: int | None = None,
    ) -> None:
        checkpoint = model if isinstance(model, Checkpoint) else resolve(str(model))
        self.recipe = recipe or Recipe.of(checkpoint)
        self.device = torch.device(device)
        self.lanes = _lanes(self.device, threads)
        self.model = Albert(checkpoint, self.device, getattr(torch, dtype))
        self.dense = [_layer(dense, self.device) for dense in self.recipe.dense]
        self.dimension = self.recipe.dimension(checkpoint)
        self.batch_tokens = batch_tokens or _default_budget(self.device, checkpoint.size("hidden_size"))

    def encode(self, tokens: TokenBatch) -> npt.NDArray[np.float32]:
        """A vector for each text, (N, D); of a text for which memory did not suffice, NaN."""
        return self.run(tokens).vectors

    def run(self, tokens: TokenBatch) -> Encoded:
        """`encode`, and what it took; identical token ids are run once.

        Raises:
            DeviceError: the device failed; CUDA's errors stay for as long as the process lives.
        """
        try:
            return self._run(tokens)
        except torch.AcceleratorError as error:
            where, got = f"{self.device} on {platform.node()}", str(error).partition("\n")[0]
            hint = "look at the node's GPU: nvidia-smi, dmesg"
            raise DeviceError("the device failed", where, got, hint) from error

    @torch.inference_mode()
    def _run(self, tokens: TokenBatch) -> Encoded:
        first_U, which_N = _unique(tokens)
        distinct = _Distinct(tokens, first_U, tokens.lengths[first_U])
        results = _Results(len(first_U), self.dimension, self.device)
        # Alone they can't be made smaller; once the others are done there may be room.
        for text_1 in self._run_batches(distinct, results):
            tries = (self._begin(distinct, text_1)() for _ in range(TRIES_ALONE))
            pooled_1D = next((pooled for pooled in tries if pooled is not None), None)
            if pooled_1D is None:
                telemetry.warn("out of memory for one text", tokens=distinct.size(text_1))
            else:
                results.add(text_1, pooled_1D, self._attended(distinct.lengths[text_1]))
        vectors_UD, missing_U = results.finish()
        computed = int(distinct.lengths[~missing_U].sum())
        if len(first_U) == len(which_N):  # all distinct: already in order
            return Encoded(vectors_UD, computed, results.padded, missing_U)
        return Encoded(vectors_UD[which_N], computed, results.padded, missing_U[which_N])

    def _run_batches(self, distinct: "_Distinct", results: "_Results") -> list[Ints]:
        """Run all in micro-batches; texts that were too large even alone, each in an array of its own."""
        waiting = deque(self._cut(distinct.lengths, np.arange(len(distinct.lengths))))
        begun: deque[tuple[Ints, Callable[[], torch.Tensor | None]]] = deque()
        too_large: list[Ints] = []
        while waiting or begun:
            while waiting and len(begun) < self.lanes.ahead:
                begun.append((waiting[0], self._begin(distinct, waiting.popleft())))
            batch_B, finished = begun.popleft()
            pooled_BD, size = finished(), distinct.size(batch_B)
            telemetry.beat()
            if pooled_BD is not None:
                results.add(batch_B, pooled_BD, self._attended(distinct.lengths[batch_B]))
            elif len(batch_B) == 1:
                too_large.append(batch_B)
            elif size > self.batch_tokens // 2:
                if size <= self.batch_tokens:  # else it was begun before the budget shrank
                    self._shrink(size)
                waiting = deque(self._cut(distinct.lengths, np.concatenate([batch_B, *waiting])))
            else:  # it was far below the budget, which is not to blame
                waiting.extendleft(np.array_split(batch_B, 2)[::-1])
        return too_large

    def _attended(self, lengths_B: Ints) -> int:
        """Tokens that attention runs over for a micro-batch."""
        return int(lengths_B.sum() if self.model.varlen else len(lengths_B) * lengths_B.max())

    def _cut(self, lengths_U: Ints, chosen: Ints) -> list[Ints]:
        """Micro-batches of the chosen texts."""
        stretch = np.inf if self.model.varlen else STRETCH
        batches = micro_batches(lengths_U[chosen], self.batch_tokens, stretch)
        return [chosen[batch] for batch in batches]

    def _begin(self, distinct: "_Distinct", batch_B: Ints) -> Callable[[], torch.Tensor | None]:
        """Begin a micro-batch; what is returned waits for `_attempt`'s answer."""
        return self.lanes.begin(self._attempt, distinct, batch_B)

    @torch.inference_mode()
    def _attempt(self, distinct: "_Distinct", batch_B: Ints) -> torch.Tensor | None:
        """(B, D) on the device; None where memory did not suffice."""
        try:
            return self._forward(distinct.ids(batch_B), distinct.lengths[batch_B])
        except RuntimeError as error:  # torch.OutOfMemoryError among them
            # Handled by the caller, when the traceback no longer keeps the batch's tensors alive.
            if not _is_out_of_memory(error):
                raise
            return None

    def _forward(self, ids_T: Ints, lengths_B: Ints) -> torch.Tensor:
        """(B, D) on the device. Nothing here waits for the device, so that it never waits for us."""
        lengths = self._to_device(lengths_B)
        hidden_TD = self.model(self._to_device(ids_T), lengths, int(lengths_B.max()))
        pooled_BD = pool(hidden_TD, lengths, self.recipe.pooling)
        for layer in self.dense:
            pooled_BD = layer(pooled_BD)
        pooled_BD = pooled_BD[:, : self.dimension]
        return normalize(pooled_BD, dim=-1) if self.recipe.normalize else pooled_BD

    def _to_device(self, values: Ints) -> torch.Tensor:
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _shrink(self, tokens: int) -> None:
        """Halve the budget, for good: what did not fit once won't fit later."""
        self.batch_tokens = max(1, self.batch_tokens // 2)
        telemetry.warn("out of memory", tokens=tokens, batch_tokens=self.batch_tokens)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class _Distinct:
    """The U distinct texts of a batch: (U,) which of its texts each is, and (U,) how many tokens it has."""

    tokens: TokenBatch
    first: Ints
    lengths: Ints

    def size(self, batch_B: Ints) -> int:
        """Tokens of some of them."""
        return int(self.lengths[batch_B].sum())

    def ids(self, batch_B: Ints) -> Ints:
        """(T,) the tokens of some of them, one behind the other."""
        starts_B = self.tokens.offsets[self.first[batch_B]]
        return self.tokens.ids[spread(starts_B, self.lengths[batch_B])].astype(np.int64)


class _Results:
    """Vectors on the host, in the order in which they come; put in the order of the texts at the end."""

    def __init__(self, texts: int, dimension: int, device: torch.device) -> None:
        # In pinned memory the copies run beside the next micro-batch.
        self._on_gpu = device.type == "cuda"
        self._vectors = torch.empty((texts, dimension), pin_memory=self._on_gpu)
        self._came: list[Ints] = []
        self._filled = self.padded = 0

    def add(self, batch_B: Ints, pooled_BD: torch.Tensor, padded: int) -> None:
        stop = self._filled + len(batch_B)
        self._vectors[self._filled : stop].copy_(pooled_BD, non_blocking=True)
        self._came.append(batch_B)
        self.padded += padded
        self._filled = stop

    def finish(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """(U, D), NaN where none came; and (U,) where none came."""
        if self._on_gpu:
            torch.cuda.synchronize()
        came = np.concatenate(self._came) if self._came else np.zeros(0, np.int64)
        vectors = np.full(self._vectors.shape, np.nan, np.float32)
        vectors[came] = self._vectors[: self._filled].numpy()
        missing = np.ones(len(vectors), np.bool_)
        missing[came] = False
        return vectors, missing


def _lanes(device: torch.device, threads: int | None) -> Lanes | OneByOne:
    if device.type == "cpu":
        return Lanes(threads or torch.get_num_threads())
    if threads:
        torch.set_num_threads(threads)
    return OneByOne()


def _is_out_of_memory(error: RuntimeError) -> bool:
    # Only the caching allocator has a class of its own for it; libraries' handles and the CPU have words.
    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _default_budget(device: torch.device, hidden_size: int) -> int:
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return int(min(CUDA_BATCH_TOKENS, max(512, free // 2 // (ACTIVATION_BYTES * hidden_size))))


def _layer(dense: Dense, device: torch.device) -> torch.nn.Module:
    """A Dense module of a sentence-transformers folder, in float32."""
    linear = torch.nn.Linear(dense.inputs, dense.outputs, bias=dense.bias)
    try:
        weights = load_file(dense.weights)
        linear.load_state_dict(
            {name.removeprefix("linear."): tensor.float() for name, tensor in weights.items()}, strict=True
        )
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(
            "is no such Dense layer",
            str(dense.weights),
            str(error).splitlines()[0],
            hint="fetch the model's folder again",
        ) from None
    activation = getattr(torch.nn, dense.activation)()
    return torch.nn.Sequential(linear, activation).to(device).eval().requires_grad_(False)


def _unique(tokens: TokenBatch) -> tuple[Ints, Ints]:
    """(U,) the first text of each distinct run of ids, and (N,) which of them each text is."""
    size = tokens.ids.itemsize
    offsets, data = pa.py_buffer(tokens.offsets * size), pa.py_buffer(tokens.ids)
    texts = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(tokens.lengths), [None, offsets, data])
    which_N: npt.NDArray[Any] = (
        texts.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    )
    # Indices of a dictionary count up in order of first appearance.
    first_U = np.unique(which_N, return_index=True)[1]
    return first_U, which_N
