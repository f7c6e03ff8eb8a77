"""Runs linear layers by oneDNN on a CPU: weights are laid out once, bias and activation share one pass.

The operators are those that torch's own compiler emits; torch.compile itself needs a C++ compiler on each
node. If torch was built without them, the plain layers stay. Measured on two cores (docs/decisions.md): the
products are 1.1 times as fast, with GELU 1.3 times.
"""

import torch
from torch import nn

from pipeline.model.activations import ACTIVATIONS


class PrepackedLinear(nn.Module):
    """Computes `activation(linear(x))` for float32 on a CPU.

    Args:
        linear: the layer; its weights are used.
        activation: one of `ACTIVATIONS` that oneDNN has, or None.
    """

    def __init__(self, linear: nn.Linear, activation: str | None = None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        post = ACTIVATIONS[activation].onednn if activation else ("none", "")
        assert post, activation
        self.post, self.algorithm = post

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Returns (..., outputs) for (..., inputs)."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            values, self.weight, self.bias, self.post, [], self.algorithm
        )
        return product


def available() -> bool:
    """Tells whether this build of torch has the operators."""
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(torch.ops.mkldnn, operator) for operator in operators
    )


def prepack(module: nn.Module) -> None:
    """Replaces the linear layers of a module, at any depth, by prepacked ones."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PrepackedLinear(child))
        else:
            prepack(child)
