"""Gathers the vectors of a split: on the GPU if it has room for them, else on the host.

Shapes: N texts, U unique texts, B texts of a micro-batch, D dimensions.
"""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from pipeline import telemetry
from pipeline.ragged import Ints

RESULTS_SHARE = 0.25
"""The most of a GPU's free memory that a split's vectors may take. If they need more, they go to the host."""


class VectorBuffer:
    """The vectors of U texts, in their order: (U, D) float32, NaN until a text's vector comes.

    missing: (U,) bool, the texts without a vector.  padded: tokens that attention ran over for the others.
    """

    def __init__(self, texts: int, dimension: int, home: torch.device) -> None:
        self.vectors = torch.full((texts, dimension), torch.nan, device=home)
        self.missing = np.ones(texts, np.bool_)
        self.padded = 0

    @classmethod
    def near(cls, device: torch.device, unique: int, texts: int, dimension: int) -> Self:
        """Returns a buffer on the device if it has room for the vectors in both orders, else on the host."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if 4 * (unique + texts) * dimension <= RESULTS_SHARE * free:
                try:
                    return cls(unique, dimension, device)
                except torch.OutOfMemoryError:  # another limit: what this process may take
                    pass
        return cls(unique, dimension, torch.device("cpu"))

    def add(self, batch_B: Ints, pooled_BD: torch.Tensor, padded: int) -> None:
        self.replace(batch_B, pooled_BD)
        self.missing[batch_B] = False
        self.padded += padded

    def replace(self, batch_B: Ints, pooled_BD: torch.Tensor) -> None:
        home = self.vectors.device
        self.vectors.index_copy_(0, moved(batch_B, home), pooled_BD.to(home))

    def of(self, which_N: Ints) -> torch.Tensor:
        """Returns the vectors of texts that may repeat, (N, D)."""
        try:
            return self.vectors[moved(which_N, self.vectors.device)]
        except torch.OutOfMemoryError:
            return self.vectors.cpu()[torch.from_numpy(which_N)]

    def not_finite(self) -> Ints:
        """Returns the texts that got a vector that is not finite."""
        finite_U = torch.isfinite(self.vectors).all(dim=1).cpu().numpy()
        return np.flatnonzero(~finite_U & ~self.missing)


def moved(values: Ints, device: torch.device) -> torch.Tensor:
    """Returns the values on a device; the copy to a GPU does not wait for it."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def to_host(vectors: torch.Tensor) -> npt.NDArray[np.float32]:
    """Waits for the device and returns its vectors as an array, which keeps the memory of the copy alive."""
    if vectors.device.type == "cpu":
        return vectors.numpy()
    host = _pinned(vectors.shape)
    host.copy_(vectors, non_blocking=True)
    torch.cuda.current_stream(vectors.device).synchronize()
    return host.numpy()


def _pinned(shape: torch.Size) -> torch.Tensor:
    """Returns memory that a GPU copies into at full speed, or plain memory if that is refused."""
    try:
        return torch.empty(shape, pin_memory=True)
    except RuntimeError as error:  # a limit of the node or the pod on locked memory
        telemetry.warn("no pinned memory", reason=str(error).partition("\n")[0])
        return torch.empty(shape)
