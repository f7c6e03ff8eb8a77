"""Computes MPNet's forward pass over packed texts.

Its layers are BERT's. To each score of attention it adds a bias, which depends on how far the two tokens are
apart and is the same in all layers. The kernels for packed texts take no such bias: attention is padded to
the longest text of the micro-batch, on every device.

Shapes: B texts, T tokens of all texts, L tokens of the longest, H heads, D dimensions, P positions.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from pipeline.model.attention import Packing
from pipeline.model.bert.forward import named_parts
from pipeline.model.layer import Embeddings, Layer, PackedTransformer
from pipeline.model.model_config import ModelConfig
from pipeline.model.mpnet.geometry import BIAS, BUCKETS, FIRST_POSITION, MPNET

FARTHEST = 128
"""The distance from which on all distances share a bucket."""


class Mpnet(PackedTransformer):
    """A replica, which turns packed token ids into packed token vectors.

    Args:
        weights: float32 tensors, by the names of `MpnetGeometry.weights`.
    """

    in_place = False

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            self.embeddings = Embeddings(config, config.size("hidden_size"), FIRST_POSITION, typed=False)
            self.layers = nn.ModuleList(Layer(config) for _ in range(config.size("num_hidden_layers")))
            self.bias = nn.Embedding(BUCKETS, config.size("num_attention_heads"))
        parts = dict(named_parts(weights, MPNET))
        parts["bias.weight"] = parts.pop(BIAS)
        self.fill(config, parts, device, dtype)
        self.positions = MPNET.positions(config)
        self.buckets = buckets(self.positions).to(device)

    def forward(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the last hidden state, (T, D), for int64 token ids."""
        hidden_TD: torch.Tensor = self.embeddings(ids_T, packing)
        packing = replace(packing, score_bias=self._score_bias(packing))
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, packing)
        return hidden_TD

    def _score_bias(self, packing: Packing) -> torch.Tensor:
        """Returns what is added to the score of each two tokens: (B, H, L, L), or (1, H, L, L)."""
        longest, middle = packing.max_seqlen, self.positions - 1
        near = self.buckets[middle - longest + 1 : middle + longest]  # from 1 - L to L - 1
        bias_HLL: torch.Tensor = self.bias(near).T.unfold(1, longest, 1).flip(1)
        if packing.pad_mask is None:
            return bias_HLL[None]
        return bias_HLL.where(packing.pad_mask[:, None, None, :], -torch.inf)


def buckets(positions: int) -> torch.Tensor:
    """Returns the bucket of each distance from a token to another, from 1 - P to P - 1: (2P - 1,).

    Half of the buckets are for tokens behind, half for those before. In each half the near distances have
    a bucket each, and the others share some: the wider, the farther, as in T5 (Raffel et al. 2019).
    """
    distance = torch.arange(1 - positions, positions)
    half, alone = BUCKETS // 2, BUCKETS // 4
    away = distance.abs()
    # In float32 and in this order, as the model was trained: a bucket's border must not move by one.
    share = torch.log(away.clamp(min=1).float() / alone) / math.log(FARTHEST / alone)
    far = (alone + (share * (half - alone)).long()).clamp(max=half - 1)
    return torch.where(away < alone, away, far) + half * (distance > 0)
