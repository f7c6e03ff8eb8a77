"""Loads a checkpoint's weights into the forward pass of its family, on a device."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Protocol, cast

import torch
from safetensors import safe_open

from pipeline.errors import ModelError
from pipeline.model.attention import Packing
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.model_config import ModelConfig


class Transformer(Protocol):
    """A replica, which turns packed token ids into packed token vectors.

    varlen: its attention runs over packed texts in place, without padding.
    """

    varlen: bool

    def __call__(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the last hidden state, (T, D), for int64 token ids."""


class _Build(Protocol):
    """The signature of the class that a family names in `FORWARD`."""

    def __call__(
        self,
        config: ModelConfig,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Transformer: ...


def load_transformer(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Transformer:
    """Loads a replica of a checkpoint.

    Raises:
        ModelError: the checkpoint lacks a weight, or has an unknown one.
    """
    module, _, name = checkpoint.family.FORWARD.partition(":")
    build = cast(_Build, getattr(import_module(module), name))
    return build(checkpoint.config, dict(_tensors(checkpoint, checkpoint.match)), device, dtype)


def load_head(
    checkpoint: Checkpoint, output: str, labels: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Loads the weights of the head that makes an output, in float32, by the names of `heads`.

    Raises:
        ModelError: the checkpoint lacks a weight of the head.
    """
    found = _tensors(checkpoint, lambda shapes: checkpoint.match_head(output, labels, shapes))
    return {name: tensor.to(device) for name, tensor in found}


Match = Callable[[Mapping[str, tuple[int, ...]]], dict[str, str]]
"""The choice of stored weights, by the names that a module gives them, from the shapes of all of them."""


def _tensors(checkpoint: Checkpoint, match: Match) -> Iterator[tuple[str, torch.Tensor]]:
    if checkpoint.pickled:
        stored = _unpickled(checkpoint)
        names = match({name: tuple(tensor.shape) for name, tensor in stored.items()})
        yield from ((name, stored[where].float()) for name, where in names.items())
        return
    files = checkpoint.stored()
    for name, stored_name in match({name: shape for name, (_, shape) in files.items()}).items():
        with safe_open(files[stored_name][0], framework="pt") as file:
            # Copied, because the tensor maps the file, which may be rewritten while this replica lives.
            yield name, file.get_tensor(stored_name).to(torch.float32, copy=True)


def _unpickled(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    (path,) = checkpoint.weight_files
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling may raise anything
        reason = str(error).splitlines()[0]
        raise ModelError(
            "can't be read as bare weights",
            str(path),
            reason,
            hint="fetch it again, or convert it to safetensors",
        ) from None
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise ModelError(
            "is not a mapping of weights",
            str(path),
            type(found).__name__,
            hint="fetch it again, or convert it to safetensors",
        )
    return found
