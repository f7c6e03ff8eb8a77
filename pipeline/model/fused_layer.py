"""Runs a layer in fewer passes over memory, for a GPU in bfloat16; checks each layer before it is used.

A layer's passes over memory take as long as its matrix products (benchmarks/results.md). Three are saved:

- One product computes queries, keys and values, and attention reads them in place.
- GELU is the epilogue of the product before it. cuBLASLt computes the tanh form. On a CPU the same
  operator computes the exact form, so it is used on CUDA only.
- Residual and LayerNorm are one pass, and attention fits its tiles to the texts' lengths (`kernels.py`),
  if Triton works.
"""

from typing import Protocol, cast

import torch
from torch import nn
from torch.nn.functional import linear

from pipeline import telemetry
from pipeline.model import kernels
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.attention import Packing, attend

CHECKED = (16, 32, 64, 160)
"""Lengths of the longest text in the check's micro-batches: one for each tile of the attention kernel."""
TOLERANCE = 0.03
"""The largest difference of a token's vector from the plain layer's, as a share of its length. Rounding to
bfloat16 gives 0.005."""


class Attention(Protocol):
    """The parts of a layer's attention."""

    heads: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    dense: nn.Linear
    LayerNorm: nn.LayerNorm


class Layer(Protocol):
    """The parts of a plain layer."""

    attention: Attention
    ffn: nn.Linear
    activation: nn.Module
    ffn_output: nn.Linear
    full_layer_layer_norm: nn.LayerNorm

    def __call__(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor: ...


class FusedLayer(nn.Module):
    """Computes the same as a plain layer.

    Args:
        layer: the plain layer; its weights are used.
        activation: the name of its activation in config.json.
        with_kernels: use Triton's kernels, not torch's own operators.
    """

    def __init__(self, layer: Layer, activation: str, *, with_kernels: bool) -> None:
        super().__init__()
        attention, parts = (
            layer.attention,
            (layer.attention.query, layer.attention.key, layer.attention.value),
        )
        self.heads, self.with_kernels = attention.heads, with_kernels
        self.qkv_weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        self.qkv_bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
        self.dense, self.attention_norm = attention.dense, attention.LayerNorm
        self.ffn, self.activation, self.ffn_output = layer.ffn, layer.activation, layer.ffn_output
        self.norm = layer.full_layer_layer_norm
        self.epilogue = ACTIVATIONS[activation].tanh_gelu and self.qkv_weight.is_cuda

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the layer's output, (T, D)."""
        attended_TD = self.dense(self._attend(hidden_TD, packing))
        hidden_TD = self._add_norm(attended_TD, hidden_TD, self.attention_norm)
        return self._add_norm(self.ffn_output(self._feed(hidden_TD)), hidden_TD, self.norm)

    def _attend(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        qkv = linear(hidden_TD, self.qkv_weight, self.qkv_bias)
        if self.with_kernels:
            return kernels.attention(qkv, self.heads, packing.cu_seqlens, packing.max_seqlen)
        query, key, value = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        return attend(query, key, value, packing).flatten(1)

    def _feed(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        if self.epilogue:
            return torch._addmm_activation(self.ffn.bias, hidden_TD, self.ffn.weight.t(), use_gelu=True)
        fed: torch.Tensor = self.activation(self.ffn(hidden_TD))
        return fed

    def _add_norm(self, x_TD: torch.Tensor, residual_TD: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        if self.with_kernels:
            return kernels.add_norm(x_TD, residual_TD, norm)
        normed_TD: torch.Tensor = norm(x_TD + residual_TD)
        return normed_TD


def quickest(layer: nn.Module, activation: str) -> nn.Module:
    """Returns the fastest form of a layer whose results on this device match the plain one's."""
    for with_kernels in (True, False) if kernels.LOADED else (False,):
        try:
            candidate = FusedLayer(cast(Layer, layer), activation, with_kernels=with_kernels)
            off = difference(candidate, cast(Layer, layer))
        except Exception as error:  # Triton and its compiler raise many kinds
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            if off <= TOLERANCE:
                return candidate
            reason = f"it differs from the plain layer by {off:.3g}"
        telemetry.warn(
            "slower layers are used", without="kernels" if with_kernels else "fusing", reason=reason
        )
    return layer


@torch.inference_mode()
def difference(candidate: FusedLayer, layer: Layer) -> float:
    """Returns the largest difference of a token's vector, as a share of its length, over all tiles."""
    weight = candidate.qkv_weight
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for longest in CHECKED:
        lengths_B = torch.tensor([longest, 1, longest // 2 + 1], device=weight.device)
        tokens = int(lengths_B.sum())
        packing = Packing.of(lengths_B, tokens, longest, weight.is_cuda)
        hidden_TD = torch.randn(tokens, weight.shape[1], generator=generator).to(weight)
        wanted_TD, found_TD = (each(hidden_TD, packing).float() for each in (layer, candidate))
        off_T = (found_TD - wanted_TD).norm(dim=1) / wanted_TD.norm(dim=1)
        worst = max(worst, float(off_T.nan_to_num(torch.inf).max()))
    return worst
