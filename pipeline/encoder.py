"""Token ids become vectors: deduplicated, sorted, cut into micro-batches, run, and put back in order.

Runs without Ray. A row's vector does not depend on what else is in its split (to 1e-5 in float32).

Shapes: N texts, U unique texts, B texts of a micro-batch, T tokens, D dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipeline.albert import Albert
from pipeline.batching import TokenBatch, micro_batches
from pipeline.checkpoint import Checkpoint
from pipeline.pooling import pool


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of shape (N, D), float32, in the order of the texts; and the tokens computed for them."""

    vectors: npt.NDArray[np.float32]
    padded_tokens: int


class Encoder:
    """One ALBERT replica.

    Args:
        dtype: `float32` or `bfloat16`, the model's arithmetic; pooling is always in float32.
        batch_tokens: tokens of a micro-batch, padding included.
        threads: torch's threads on a CPU; torch's own choice when not given.

    Raises:
        ModelError: the checkpoint can't be loaded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        pooling: str = "mean",
        normalize: bool = True,
        batch_tokens: int = 1024,
        threads: int | None = None,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.model = Albert(checkpoint, device, getattr(torch, dtype))
        self.dimension = checkpoint.dimension
        self.pooling, self.normalize, self.batch_tokens = pooling, normalize, batch_tokens

    @torch.inference_mode()
    def encode(self, tokens: TokenBatch) -> Encoded:
        """A vector for each text; identical token ids are run once."""
        first_U, which_N = _unique(tokens)
        lengths_U = tokens.lengths[first_U]
        vectors_UD = np.empty((len(first_U), self.dimension), np.float32)
        padded = 0
        for batch_B in micro_batches(lengths_U, self.batch_tokens):
            ids_BT, mask_BT = _padded(tokens, first_U[batch_B], lengths_U[batch_B])
            hidden_BTD = self.model(ids_BT.to(self.device), mask_BT.to(self.device))
            pooled_BD = pool(hidden_BTD, mask_BT.to(self.device), self.pooling, self.normalize)
            vectors_UD[batch_B] = pooled_BD.cpu().numpy()
            padded += ids_BT.numel()
        vectors_ND = vectors_UD if len(first_U) == len(which_N) else vectors_UD[which_N]
        return Encoded(vectors_ND, padded)


def _unique(tokens: TokenBatch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
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


def _padded(
    tokens: TokenBatch, rows_B: npt.NDArray[np.int64], lengths_B: npt.NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of shape (B, T), T the longest; padding is id 0 and masked."""
    mask_BT = np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]
    ids_BT = np.zeros(mask_BT.shape, np.int64)
    starts_B = tokens.offsets[rows_B]
    ids_BT[mask_BT] = tokens.ids[(starts_B[:, None] + np.arange(mask_BT.shape[1]))[mask_BT]]
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)
