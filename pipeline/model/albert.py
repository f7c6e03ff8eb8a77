"""ALBERT (Lan et al. 2019, arXiv:1909.11942): a checkpoint's weights, and its forward pass over packed texts.

Texts lie packed, one behind the other: every matrix product is of real tokens alone. On a GPU in bfloat16 the
layers make fewer passes over memory (`fused.py`), on a CPU in float32 their weights are laid out once
(`onednn_linear.py`). The plain layers of this module stand behind both, and are what tests compare with.

The modules bear the names that checkpoints give their weights. Tests hold the vectors against transformers'
`AlbertModel`. It is not imported here: each replica would start 2 s later (docs/decisions.md).

Shapes: B texts, T tokens of all of them, E an embedding's dimensions, D dimensions.
"""

from collections.abc import Iterator

import torch
from safetensors import safe_open
from torch import nn

from pipeline.errors import ModelError
from pipeline.model import fused, onednn_linear
from pipeline.model.attention import Packing, attend, has_varlen
from pipeline.model.checkpoint import Checkpoint

ACTIVATIONS = {
    "gelu_new": nn.GELU("tanh"),
    "gelu_pytorch_tanh": nn.GELU("tanh"),
    "gelu": nn.GELU(),
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
}
"""By transformers' names. Its `gelu_new` is a chain of eight passes; in one it is within 2e-6, and 1.2 to 1.4
times as fast on a CPU."""


class Albert(nn.Module):
    """A replica of a checkpoint: packed token ids in, packed token vectors out.

    Raises:
        ModelError: the checkpoint lacks a weight, or has one that we don't know.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        heads = checkpoint.size("num_attention_heads")
        self.varlen = has_varlen(checkpoint.size("hidden_size") // heads, device, dtype)
        with torch.device("meta"):
            self.embeddings = _Embeddings(checkpoint)
            self.encoder = _Encoder(checkpoint)
        self.load_state_dict(dict(_tensors(checkpoint)), strict=True, assign=True)
        self.to(device=device, dtype=dtype).eval().requires_grad_(False)
        if device.type == "cpu" and dtype == torch.float32 and onednn_linear.available():
            self._prepack(checkpoint.activation)
        if self.varlen:
            self._fuse(checkpoint.activation)

    def _fuse(self, activation: str) -> None:
        for group in self.encoder.albert_layer_groups:
            assert isinstance(group, _Group)
            group.albert_layers = nn.ModuleList(
                fused.quickest(layer, activation) for layer in group.albert_layers
            )

    def _prepack(self, activation: str) -> None:
        layers = [module for module in self.modules() if isinstance(module, _Layer)]
        for layer in layers:
            if isinstance(layer.ffn, nn.Linear) and activation in onednn_linear.FUSED:
                layer.ffn = onednn_linear.PrepackedLinear(layer.ffn, activation)
                layer.activation = nn.Identity()
        onednn_linear.prepack(self)

    def forward(self, ids_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Last hidden state of shape (T, D), of int64 token ids."""
        hidden_TD: torch.Tensor = self.encoder(self.embeddings(ids_T, packing.position_ids), packing)
        return hidden_TD


class _Embeddings(nn.Module):
    """What a token is, and where in its text; all texts are of the first token type."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        size = checkpoint.size("embedding_size")
        self.word_embeddings = nn.Embedding(checkpoint.size("vocab_size"), size)
        self.position_embeddings = nn.Embedding(checkpoint.size("max_position_embeddings"), size)
        self.token_type_embeddings = nn.Embedding(checkpoint.size("type_vocab_size", 2), size)
        self.LayerNorm = nn.LayerNorm(size, eps=checkpoint.epsilon)

    def forward(self, ids_T: torch.Tensor, position_T: torch.Tensor) -> torch.Tensor:
        """(T, E)"""
        words_TE = self.word_embeddings(ids_T) + self.token_type_embeddings.weight[0]
        normed_TE: torch.Tensor = self.LayerNorm(words_TE + self.position_embeddings(position_T))
        return normed_TE


class _Encoder(nn.Module):
    """The layers: few that are distinct, in groups, and each group's are used over and over."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.layers = checkpoint.size("num_hidden_layers")
        self.embedding_hidden_mapping_in = nn.Linear(
            checkpoint.size("embedding_size"), checkpoint.size("hidden_size")
        )
        groups = range(checkpoint.size("num_hidden_groups", 1))
        self.albert_layer_groups = nn.ModuleList(_Group(checkpoint) for _ in groups)

    def forward(self, embedded_TE: torch.Tensor, packing: Packing) -> torch.Tensor:
        """(T, D)"""
        hidden_TD: torch.Tensor = self.embedding_hidden_mapping_in(embedded_TE)
        per_group = self.layers / len(self.albert_layer_groups)
        for number in range(self.layers):
            hidden_TD = self.albert_layer_groups[int(number / per_group)](hidden_TD, packing)
        return hidden_TD


class _Group(nn.Module):
    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        count = checkpoint.size("inner_group_num", 1)
        self.albert_layers = nn.ModuleList(_Layer(checkpoint) for _ in range(count))

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        for layer in self.albert_layers:
            hidden_TD = layer(hidden_TD, packing)
        return hidden_TD


class _Layer(nn.Module):
    """Attention, then the feed-forward network; each is added to what it was given, and the sum normed."""

    ffn: nn.Linear | onednn_linear.PrepackedLinear
    activation: nn.Module

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        size, inner = checkpoint.size("hidden_size"), checkpoint.size("intermediate_size")
        self.attention = _Attention(checkpoint)
        self.ffn = nn.Linear(size, inner)
        self.activation = ACTIVATIONS[checkpoint.activation]
        self.ffn_output = nn.Linear(inner, size)
        self.full_layer_layer_norm = nn.LayerNorm(size, eps=checkpoint.epsilon)

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        attended_TD = self.attention(hidden_TD, packing)
        fed_TD = self.ffn_output(self.activation(self.ffn(attended_TD)))
        normed_TD: torch.Tensor = self.full_layer_layer_norm(fed_TD + attended_TD)
        return normed_TD


class _Attention(nn.Module):
    """Each token over those of its own text."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        size, self.heads = checkpoint.size("hidden_size"), checkpoint.size("num_attention_heads")
        self.query, self.key, self.value, self.dense = (nn.Linear(size, size) for _ in range(4))
        self.LayerNorm = nn.LayerNorm(size, eps=checkpoint.epsilon)

    def forward(self, hidden_TD: torch.Tensor, packing: Packing) -> torch.Tensor:
        shape = (len(hidden_TD), self.heads, -1)
        query, key, value = (part(hidden_TD).view(shape) for part in (self.query, self.key, self.value))
        attended_TD = attend(query, key, value, packing).flatten(1)
        normed_TD: torch.Tensor = self.LayerNorm(hidden_TD + self.dense(attended_TD))
        return normed_TD


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    if checkpoint.pickled:
        stored = _unpickled(checkpoint)
        names = checkpoint.match({name: tuple(tensor.shape) for name, tensor in stored.items()})
        yield from ((name, stored[where].float()) for name, where in names.items())
        return
    files = checkpoint.stored()
    for name, stored_name in checkpoint.match({name: shape for name, (_, shape) in files.items()}).items():
        with safe_open(files[stored_name][0], framework="pt") as file:
            # A copy: what is read maps the file, which somebody may write anew while this replica lives.
            yield name, file.get_tensor(stored_name).to(torch.float32, copy=True)


def _unpickled(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    (path,) = checkpoint.weight_files
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises what it likes
        reason = str(error).splitlines()[0]
        raise ModelError(
            "can't be read as bare weights",
            str(path),
            reason,
            hint="fetch it again, or convert it to safetensors",
        ) from None
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise ModelError(
            "is no mapping of weights",
            str(path),
            type(found).__name__,
            hint="fetch it again, or convert it to safetensors",
        )
    return found
