"""Computes the parts that ALBERT and BERT share, over packed texts: embeddings, and the layers.

Texts are packed one after the other, so every matrix product runs over real tokens only. On a GPU in bfloat16
the layers make fewer passes over memory (`fused_layer.py`). On a CPU in float32 their weights are laid out
once (`onednn_linear.py`). Both fall back to the plain layers of this module, and tests compare with these.

Shapes: T tokens of all texts, E dimensions of an embedding, D dimensions.
"""

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.model import fused_layer, onednn_linear
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.attention import Packing, attend, has_varlen
from pipeline.model.model_config import ModelConfig


class PackedTransformer(nn.Module):
    """The base of all families: it takes the weights, and gives the layers their fastest form.

    varlen: as `transformer.Transformer` has it.
    in_place: its attention is plain, so that it may run over packed texts in place.
    """

    varlen: bool
    in_place: bool = True

    def fill(
        self,
        config: ModelConfig,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Gives weights to the parts that were made without any, on a device.

        Args:
            weights: float32 tensors, by the names of the parts.
        """
        size, heads = config.size("hidden_size"), config.size("num_attention_heads")
        self.varlen = self.in_place and has_varlen(size // heads, device, dtype)
        self.load_state_dict(weights, strict=True, assign=True)
        self.to(device=device, dtype=dtype).eval().requires_grad_(False)
        activation = str(config.get("hidden_act"))
        if self.varlen:
            _fuse(self, activation)
        elif device.type == "cpu" and dtype == torch.float32 and onednn_linear.available():
            _prepack(self, activation)


class Embeddings(nn.Module):
    """Embeds each token, its position, and its type: the second text of a pair has the second type.

    Args:
        size: E.
        first_position: the number of a text's first position.
        typed: tokens have types.
    """

    def __init__(self, config: ModelConfig, size: int, first_position: int = 0, typed: bool = True) -> None:
        super().__init__()
        self.first_position = first_position
        self.word_embeddings = nn.Embedding(config.size("vocab_size"), size)
        self.position_embeddings = nn.Embedding(config.size("max_position_embeddings"), size)
        types = nn.Embedding(config.size("type_vocab_size"), size) if typed else None
        self.token_type_embeddings = types
        self.LayerNorm = nn.LayerNorm(size, eps=config.get("layer_norm_eps"))

    def forward(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the embedded tokens, (T, E)."""
        words_TE = self.word_embeddings(ids_T)
        if (types := self.token_type_embeddings) is not None:
            words_TE = words_TE + (types.weight[0] if packing.type_ids is None else types(packing.type_ids))
        position_T = packing.position_ids + self.first_position
        normed_TE: torch.Tensor = self.LayerNorm(words_TE + self.position_embeddings(position_T))
        return normed_TE


class Layer(nn.Module):
    """Attention, then the feed-forward network. Each is added to its input, and the sum is normalized."""

    ffn: nn.Linear | onednn_linear.PrepackedLinear
    activation: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner = config.size("hidden_size"), config.size("intermediate_size")
        self.attention = Attention(config)
        self.ffn = nn.Linear(size, inner)
        self.activation = _activation(str(config.get("hidden_act")))
        self.ffn_output = nn.Linear(inner, size)
        self.full_layer_layer_norm = nn.LayerNorm(size, eps=config.get("layer_norm_eps"))

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        attended_TD = self.attention(hidden_TD, packing)
        fed_TD = self.ffn_output(self.activation(self.ffn(attended_TD)))
        normed_TD: torch.Tensor = self.full_layer_layer_norm(fed_TD + attended_TD)
        return normed_TD


class Attention(nn.Module):
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


def _fuse(module: nn.Module, activation: str) -> None:
    """Replaces the layers in a module, at any depth, by the fastest form that gives the same there."""
    for name, child in module.named_children():
        if isinstance(child, Layer):
            setattr(module, name, fused_layer.quickest(child, activation))
        else:
            _fuse(child, activation)


def _prepack(module: nn.Module, activation: str) -> None:
    """Lays out weights for oneDNN, which computes the activation in the pass of the product before it."""
    for layer in module.modules():
        if isinstance(layer, Layer) and ACTIVATIONS[activation].onednn:
            assert isinstance(layer.ffn, nn.Linear)
            layer.ffn = onednn_linear.PrepackedLinear(layer.ffn, activation)
            layer.activation = nn.Identity()
    onednn_linear.prepack(module)
