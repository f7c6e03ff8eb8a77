"""Computes the forward pass of BERT, RoBERTa and DistilBERT over packed texts.

Tests compare the vectors with those of transformers' own models, which are not imported here.

Shapes: T tokens of all texts, D dimensions.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from pipeline.model.attention import Packing
from pipeline.model.bert.geometry import BY_TYPE, Geometry
from pipeline.model.layer import Embeddings, Layer, PackedTransformer
from pipeline.model.model_config import ModelConfig


class Bert(PackedTransformer):
    """A replica, which turns packed token ids into packed token vectors.

    Args:
        weights: float32 tensors, by the names of `Geometry.weights`.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        family, size = BY_TYPE[config.values["model_type"]], config.size("hidden_size")
        with torch.device("meta"):
            self.embeddings = Embeddings(config, size, family.first_position(config), family.typed)
            self.layers = nn.ModuleList(Layer(config) for _ in range(config.size("num_hidden_layers")))
        self.fill(config, dict(named_parts(weights, family)), device, dtype)

    def forward(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the last hidden state, (T, D), for int64 token ids."""
        hidden_TD: torch.Tensor = self.embeddings(ids_T, packing)
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, packing)
        return hidden_TD


def named_parts(weights: Mapping[str, torch.Tensor], family: Geometry) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the weights by the names of this module's parts."""
    parts = {stored: part for part, stored in family.STORED.items()}
    for name, tensor in weights.items():
        if not name.startswith(family.LAYER):
            yield name, tensor
            continue
        number, _, rest = name.removeprefix(family.LAYER).partition(".")
        stored, _, kind = rest.rpartition(".")
        yield f"layers.{number}.{parts[stored]}.{kind}", tensor
