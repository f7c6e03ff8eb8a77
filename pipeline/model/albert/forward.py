"""Computes ALBERT's forward pass over packed texts.

Texts are packed one after the other, so every matrix product runs over real tokens only. On a GPU in bfloat16
the layers make fewer passes over memory (`fused.py`). On a CPU in float32 their weights are laid out once
(`onednn_linear.py`). Both fall back to the plain layers of this module, and tests compare with these.

The modules have the names that checkpoints give their weights. Tests compare the vectors with those of
transformers' `AlbertModel`. It is not imported here: each replica would start 2 s later (docs/decisions.md).

Shapes: T tokens of all texts, E dimensions of an embedding, D dimensions.
"""

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.model import onednn_linear
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.albert import fused
from pipeline.model.attention import Packing, attend, has_varlen
from pipeline.model.model_config import ModelConfig


class Albert(nn.Module):
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
        heads, activation = config.size("num_attention_heads"), str(config.get("hidden_act"))
        self.varlen = has_varlen(config.size("hidden_size") // heads, device, dtype)
        with torch.device("meta"):
            self.embeddings = _Embeddings(config)
            self.encoder = _Encoder(config)
        self.load_state_dict(weights, strict=True, assign=True)
        self.to(device=device, dtype=dtype).eval().requires_grad_(False)
        if device.type == "cpu" and dtype == torch.float32 and onednn_linear.available():
            self._prepack(activation)
        if self.varlen:
            self._fuse(activation)

    def _fuse(self, activation: str) -> None:
        for group in self.encoder.albert_layer_groups:
            assert isinstance(group, _Group)
            group.albert_layers = nn.ModuleList(
                fused.quickest(layer, activation) for layer in group.albert_layers
            )

    def _prepack(self, activation: str) -> None:
        layers = [module for module in self.modules() if isinstance(module, _Layer)]
        for layer in layers:
            if isinstance(layer.ffn, nn.Linear) and ACTIVATIONS[activation].onednn:
                layer.ffn = onednn_linear.PrepackedLinear(layer.ffn, activation)
                layer.activation = nn.Identity()
        onednn_linear.prepack(self)

    def forward(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the last hidden state, (T, D), for int64 token ids."""
        hidden_TD: torch.Tensor = self.encoder(self.embeddings(ids_T, packing), packing)
        return hidden_TD


class _Embeddings(nn.Module):
    """Embeds each token, its position, and its type: the second text of a pair has the second type."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.size("embedding_size")
        self.word_embeddings = nn.Embedding(config.size("vocab_size"), size)
        self.position_embeddings = nn.Embedding(config.size("max_position_embeddings"), size)
        self.token_type_embeddings = nn.Embedding(config.size("type_vocab_size"), size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.get("layer_norm_eps"))

    def forward(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the embedded tokens, (T, E)."""
        types = self.token_type_embeddings
        type_TE = types.weight[0] if packing.type_ids is None else types(packing.type_ids)
        words_TE = self.word_embeddings(ids_T) + type_TE
        normed_TE: torch.Tensor = self.LayerNorm(words_TE + self.position_embeddings(packing.position_ids))
        return normed_TE


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
        self.albert_layers = nn.ModuleList(_Layer(config) for _ in range(count))

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        for layer in self.albert_layers:
            hidden_TD = layer(hidden_TD, packing)
        return hidden_TD


class _Layer(nn.Module):
    """Attention, then the feed-forward network. Each is added to its input, and the sum is normalized."""

    ffn: nn.Linear | onednn_linear.PrepackedLinear
    activation: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner = config.size("hidden_size"), config.size("intermediate_size")
        self.attention = _Attention(config)
        self.ffn = nn.Linear(size, inner)
        self.activation = _activation(str(config.get("hidden_act")))
        self.ffn_output = nn.Linear(inner, size)
        self.full_layer_layer_norm = nn.LayerNorm(size, eps=config.get("layer_norm_eps"))

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        attended_TD = self.attention(hidden_TD, packing)
        fed_TD = self.ffn_output(self.activation(self.ffn(attended_TD)))
        normed_TD: torch.Tensor = self.full_layer_layer_norm(fed_TD + attended_TD)
        return normed_TD


class _Attention(nn.Module):
    """Attention of each token to the tokens of its own text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, self.heads = config.size("hidden_size"), config.size("num_attention_heads")
        self.query, self.key, self.value, self.dense = (nn.Linear(size, size) for _ in range(4))
        self.LayerNorm = nn.LayerNorm(size, eps=config.get("layer_norm_eps"))

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        shape = (len(hidden_TD), self.heads, -1)
        query, key, value = (part(hidden_TD).view(shape) for part in (self.query, self.key, self.value))
        attended_TD = attend(query, key, value, packing).flatten(1)
        normed_TD: torch.Tensor = self.LayerNorm(hidden_TD + self.dense(attended_TD))
        return normed_TD


def _activation(name: str) -> nn.Module:
    activation = ACTIVATIONS[name]
    arguments = [activation.approximate] if activation.approximate else []
    module: nn.Module = getattr(nn, activation.module)(*arguments)
    return module
