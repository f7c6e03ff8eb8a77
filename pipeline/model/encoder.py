"""Token ids become vectors: deduplicated, sorted, cut into micro-batches, run, and put back in order.

Runs without Ray. A row's vector does not depend on what else is in its split (to 1e-5 in float32). Running
out of memory costs a smaller budget, never the job.

Shapes: N texts, U unique texts, B texts of a micro-batch, T tokens of it, D dimensions.
"""

import platform
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
from pipeline.errors import DeviceError, ModelError
from pipeline.model.attention import AMPERE, Packing
from pipeline.model.batching import TokenBatch, micro_batches
from pipeline.model.checkpoint import Checkpoint, resolve
from pipeline.model.embedding_spec import Recipe
from pipeline.model.pooling import pool
from pipeline.model.sentence_transformers import Dense
from pipeline.model.thread_lanes import Lanes, OneByOne
from pipeline.model.transformer import Transformer, load_transformer
from pipeline.ragged import Ints, spread

CPU_BATCH_TOKENS = 512
"""Of each lane. Larger ones are no faster, and leave lanes idle at the end of a split."""
STRETCH = 2.0
"""Most padded places that attention may need, over `batch_tokens`: for texts of very unlike lengths."""
CUDA_BATCH_TOKENS = 65_536
MAX_TEXTS = 65_535
"""Texts of a micro-batch on a GPU: the grid of torch's attention kernel has no more places on that axis."""
RESULTS_SHARE = 0.25
"""Of a GPU's free memory, the most that the vectors of a split may take. More go to the host in parts."""
MAX_AGAIN = 64
"""Texts of a split that are computed again because their vectors are not finite."""
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
    """A replica of a checkpoint.

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
        self.checkpoint, self.recipe = checkpoint, recipe or Recipe.of(checkpoint)
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        _require_dtype(self.device, self.dtype)
        self.lanes = _lanes(self.device, threads)
        with self._on_device():
            self.model = load_transformer(checkpoint, self.device, self.dtype)
        self.exact: Transformer | None = self.model if self.dtype == torch.float32 else None
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
            with self._on_device():
                return self._run(tokens)
        except RuntimeError as error:
            if not _device_failed(error, self.device):
                raise
            where, got = f"{self.device} on {platform.node()}", str(error).partition("\n")[0]
            hint = "look at the node's GPU: nvidia-smi, dmesg"
            raise DeviceError("the device failed", where, got, hint) from error

    @torch.inference_mode()
    def _run(self, tokens: TokenBatch) -> Encoded:
        first_U, which_N = _unique(tokens)
        distinct = _Distinct(tokens, first_U, tokens.lengths[first_U])
        results = self._results(len(first_U), len(which_N))
        # Alone they can't be made smaller; once the others are done there may be room.
        for text_1 in self._run_batches(distinct, results):
            tries = (self._begin(distinct, text_1)() for _ in range(TRIES_ALONE))
            pooled_1D = next((pooled for pooled in tries if pooled is not None), None)
            if pooled_1D is None:
                telemetry.warn("out of memory for one text", tokens=distinct.size(text_1))
            else:
                results.add(text_1, pooled_1D, self._attended(distinct.lengths[text_1]))
        self._again(distinct, results)
        missing_U = results.missing
        computed = int(distinct.lengths[~missing_U].sum())
        if len(first_U) == len(which_N):  # all distinct: already in order
            return Encoded(self._to_host(results.vectors), computed, results.padded, missing_U)
        vectors_ND = self._to_host(results.of(which_N))
        return Encoded(vectors_ND, computed, results.padded, missing_U[which_N])

    def _again(self, distinct: "_Distinct", results: "_Results") -> None:
        """Computes texts whose vectors are not finite once more: each alone, in float32.

        In bfloat16 a value can overflow that float32 holds, and a device can err once.
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
            pooled_1D = self._attempt(distinct, text_1, self.exact)
            if pooled_1D is not None:
                results.replace(text_1, pooled_1D)

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
        batches = micro_batches(lengths_U[chosen], self.batch_tokens, stretch, MAX_TEXTS)
        return [chosen[batch] for batch in batches]

    def _begin(self, distinct: "_Distinct", batch_B: Ints) -> Callable[[], torch.Tensor | None]:
        """Begin a micro-batch; what is returned waits for `_attempt`'s answer."""
        return self.lanes.begin(self._attempt, distinct, batch_B)

    @torch.inference_mode()
    def _attempt(
        self, distinct: "_Distinct", batch_B: Ints, model: Transformer | None = None
    ) -> torch.Tensor | None:
        """(B, D) on the device; None where memory did not suffice."""
        try:
            return self._forward(model or self.model, distinct.ids(batch_B), distinct.lengths[batch_B])
        except RuntimeError as error:  # torch.OutOfMemoryError among them
            # Handled by the caller, when the traceback no longer keeps the batch's tensors alive.
            if not _is_out_of_memory(error):
                raise
            return None

    def _forward(self, model: Transformer, ids_T: Ints, lengths_B: Ints) -> torch.Tensor:
        """(B, D) on the device. Nothing here waits for the device, so that it never waits for us."""
        lengths = _moved(lengths_B, self.device)
        packing = Packing.of(lengths, len(ids_T), int(lengths_B.max()), model.varlen)
        hidden_TD = model(_moved(ids_T, self.device), packing)
        pooled_BD = pool(hidden_TD, lengths, self.recipe.pooling)
        for layer in self.dense:
            pooled_BD = layer(pooled_BD)
        pooled_BD = pooled_BD[:, : self.dimension]
        return normalize(pooled_BD, dim=-1) if self.recipe.normalize else pooled_BD

    def _on_device(self) -> AbstractContextManager[object]:
        """Makes the replica's GPU this thread's current one: that is where kernels start."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _results(self, distinct: int, texts: int) -> "_Results":
        """Returns where vectors are gathered: on the GPU if it has room for them, in both orders."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if 4 * (distinct + texts) * self.dimension <= RESULTS_SHARE * free:
                try:
                    return _Results(distinct, self.dimension, self.device)
                except torch.OutOfMemoryError:  # of what this process may take
                    pass
        return _Results(distinct, self.dimension, torch.device("cpu"))

    def _to_host(self, vectors: torch.Tensor) -> npt.NDArray[np.float32]:
        """Waits for the device; the array keeps the memory that the copy went into."""
        if vectors.device.type == "cpu":
            return vectors.numpy()
        host = _pinned(vectors.shape)
        host.copy_(vectors, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return host.numpy()

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
    """The vectors of U texts, in their order: (U, D) float32 where they are gathered, NaN where none came.

    missing: (U,) for which texts none came.  padded: tokens that attention ran over for them.
    """

    def __init__(self, texts: int, dimension: int, home: torch.device) -> None:
        self.vectors = torch.full((texts, dimension), torch.nan, device=home)
        self.missing = np.ones(texts, np.bool_)
        self.padded = 0

    def add(self, batch_B: Ints, pooled_BD: torch.Tensor, padded: int) -> None:
        self.replace(batch_B, pooled_BD)
        self.missing[batch_B] = False
        self.padded += padded

    def replace(self, batch_B: Ints, pooled_BD: torch.Tensor) -> None:
        home = self.vectors.device
        self.vectors.index_copy_(0, _moved(batch_B, home), pooled_BD.to(home))

    def of(self, which_N: Ints) -> torch.Tensor:
        """Returns (N, D): the vectors of texts that may repeat."""
        try:
            return self.vectors[_moved(which_N, self.vectors.device)]
        except torch.OutOfMemoryError:
            return self.vectors.cpu()[torch.from_numpy(which_N)]

    def not_finite(self) -> Ints:
        """Returns the texts for which a vector came that is not finite."""
        finite_U = torch.isfinite(self.vectors).all(dim=1).cpu().numpy()
        return np.flatnonzero(~finite_U & ~self.missing)


def _moved(values: Ints, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _pinned(shape: torch.Size) -> torch.Tensor:
    """Returns memory that a GPU copies into at full speed, or plain memory where there is none."""
    try:
        return torch.empty(shape, pin_memory=True)
    except RuntimeError as error:  # a limit of the node or the pod on locked memory
        telemetry.warn("no pinned memory", reason=str(error).partition("\n")[0])
        return torch.empty(shape)


def _require_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Prepares a GPU's products in bfloat16.

    Raises:
        ModelError: the GPU has no arithmetic for it.
    """
    if device.type != "cuda" or dtype != torch.bfloat16:
        return
    # A vector should not depend on how cuBLAS cuts a product.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    found = torch.cuda.get_device_capability(device)
    if found < AMPERE:
        name, got = torch.cuda.get_device_name(device), "compute capability {}.{}".format(*found)
        raise ModelError("the GPU can't compute in bfloat16", name, got, hint="set model.dtype: float32")


def _device_failed(error: RuntimeError, device: torch.device) -> bool:
    """Tells a failed device from a fault of the program.

    cuBLAS, cuDNN and the driver raise plain RuntimeErrors. After an illegal access or a lost GPU a matrix
    product is often the first to notice; then each later call fails as well.
    """
    if isinstance(error, torch.AcceleratorError):
        return True
    if device.type != "cuda":
        return False
    if any(library in str(error) for library in ("CUBLAS_STATUS_", "CUDNN_STATUS_")):
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


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
