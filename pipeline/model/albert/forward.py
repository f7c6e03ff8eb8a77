"""Computes ALBERT's forward pass over packed texts.

The modules have the names that checkpoints give their weights. Tests compare the vectors with those of
transformers' `AlbertModel`. It is not imported here: each replica would start 2 s later (docs/decisions.md).

Shapes: T tokens of all texts, E dimensions of an embedding, D dimensions.
"""

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.model.attention import Packing
from pipeline.model.layer import Embeddings, Layer, PackedTransformer
from pipeline.model.model_config import ModelConfig


class Albert(PackedTransformer):
    """A replica, which turns packed token ids into packed token vectors.

    Args:
        weights: float32 tensors, by the names of `geometry.weights`.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            self.embeddings = Embeddings(config, config.size("embedding_size"))
            self.encoder = _Encoder(config)
        self.fill(config, weights, device, dtype)

    def forward(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the last hidden state, (T, D), for int64 token ids."""
        hidden_TD: torch.Tensor = self.encoder(self.embeddings(ids_T, packing), packing)
        return hidden_TD


class _Encoder(nn.Module):
    """The layers. Few of them are distinct: they form groups, and each group is used again and again."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = config.size("num_hidden_layers")
        self.embedding_hidden_mapping_in = nn.Linear(
            config.size("embedding_size"), config.size("hidden_size")
        )
        groups = range(config.size("num_hidden_groups"))
        self.albert_layer_groups = nn.ModuleList(_Group(config) for _ in groups)

    def forward(self, embedded_TE: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the last layer's output, (T, D)."""
        hidden_TD: torch.Tensor = self.embedding_hidden_mapping_in(embedded_TE)
        per_group = self.layers / len(self.albert_layer_groups)
        for number in range(self.layers):
            hidden_TD = self.albert_layer_groups[int(number / per_group)](hidden_TD, packing)
        return hidden_TD


class _Group(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count = config.size("inner_group_num")
        self.albert_layers = nn.ModuleList(Layer(config) for _ in range(count))

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        for layer in self.albert_layers:
            hidden_TD = layer(hidden_TD, packing)
        return hidden_TD
