"""Gathers the numbers of a split: on the GPU if it has room for them, else on the host.

Shapes: N texts, U unique texts, B texts of a micro-batch, T tokens of its texts, D numbers of a text,
K numbers of a token.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from pipeline import telemetry
from pipeline.ragged import Ints, flat_indices, offsets_from_lengths, sums

RESULTS_SHARE = 0.25
"""The most of a GPU's free memory that a split's numbers may take. If they need more, they go to the host."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a micro-batch: (B, D) of its texts, (T, K) of their tokens; None if there are none."""

    of_texts: torch.Tensor | None
    of_tokens: torch.Tensor | None


class VectorBuffer:
    """The numbers of U texts, in their order: NaN until a text's numbers come.

    vectors: (U, D) float32, those of texts.  of_tokens: (all tokens, K) float32, those of their tokens.
    missing: (U,) bool, the texts without numbers.  padded: tokens that attention ran over for the others.
    """

    def __init__(self, lengths_U: Ints, widths: tuple[int, int], home: torch.device) -> None:
        self.lengths, self.offsets = lengths_U, offsets_from_lengths(lengths_U)
        tokens = int(self.offsets[-1]) if widths[1] else 0
        self.vectors = torch.full((len(lengths_U), widths[0]), torch.nan, device=home)
        self.of_tokens = torch.full((tokens, widths[1]), torch.nan, device=home)
        self.missing = np.ones(len(lengths_U), np.bool_)
        self.padded = 0

    @classmethod
    def near(cls, device: torch.device, lengths_U: Ints, which_N: Ints, widths: tuple[int, int]) -> Self:
        """Returns a buffer on the device if it has room for the numbers in both orders, else on the host."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            numbers = (len(lengths_U) + len(which_N)) * widths[0]
            numbers += int(lengths_U.sum() + lengths_U[which_N].sum()) * widths[1]
            if 4 * numbers <= RESULTS_SHARE * free:
                try:
                    return cls(lengths_U, widths, device)
                except torch.OutOfMemoryError:  # another limit: what this process may take
                    pass
        return cls(lengths_U, widths, torch.device("cpu"))

    def add(self, batch_B: Ints, found: Numbers, padded: int) -> None:
        self.replace(batch_B, found)
        self.missing[batch_B] = False
        self.padded += padded

    def replace(self, batch_B: Ints, found: Numbers) -> None:
        home = self.vectors.device
        if found.of_texts is not None:
            self.vectors.index_copy_(0, moved(batch_B, home), found.of_texts.to(home))
        if found.of_tokens is not None:
            self.of_tokens.index_copy_(0, moved(self._places(batch_B), home), found.of_tokens.to(home))

    def of(self, which_N: Ints) -> torch.Tensor:
        """Returns the numbers of texts that may repeat, (N, D)."""
        return _taken(self.vectors, which_N)

    def tokens_of(self, which_N: Ints) -> torch.Tensor:
        """Returns the numbers of the tokens of texts that may repeat, (all their tokens, K)."""
        return _taken(self.of_tokens, self._places(which_N)) if len(self.of_tokens) else self.of_tokens

    def _places(self, which: Ints) -> Ints:
        """Returns the places of the tokens of some texts."""
        return flat_indices(self.offsets[which], self.lengths[which])

    def not_finite(self) -> Ints:
        """Returns the texts that got a number that is not finite."""
        bad_U = ~torch.isfinite(self.vectors).all(dim=1).cpu().numpy()
        if len(self.of_tokens):
            bad_T = ~torch.isfinite(self.of_tokens).all(dim=1).cpu().numpy()
            bad_U |= sums(bad_T, self.lengths) > 0
        return np.flatnonzero(bad_U & ~self.missing)


def _taken(values: torch.Tensor, which: Ints) -> torch.Tensor:
    try:
        return values[moved(which, values.device)]
    except torch.OutOfMemoryError:
        return values.cpu()[torch.from_numpy(which)]


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
