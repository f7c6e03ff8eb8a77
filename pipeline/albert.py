"""ALBERT's weights and forward pass; the only file that knows transformers' model.

Texts lie packed, one behind the other: every matrix product is of real tokens alone. Attention, a twentieth
of the work, runs on torch's kernel for texts of different lengths where there is one (CUDA, bfloat16);
elsewhere its inputs are padded to the longest text of the micro-batch, and its output packed again.

Shapes: B texts, T tokens of all of them, L of the longest, H heads, C a head's dimensions, D dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from safetensors import safe_open
from torch.nn.functional import scaled_dot_product_attention
from transformers import AlbertConfig, AlbertModel, AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from pipeline import onednn
from pipeline.checkpoint import Checkpoint
from pipeline.errors import ModelError
from pipeline.pooling import positions

PACKED = "albert_packed"


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the texts of a micro-batch lie.

    edges: (B + 1,) int32, where each begins, and the end.  longest: L.
    spread: (B, L), for each place of a padded batch a token of the same text: its own, or the last.
    real: (B, L) bool, whether it is its own.  gather: (T,) where in the padded batch each token is.
    The last three are None where no padding is needed.
    """

    edges: torch.Tensor
    longest: int
    varlen: bool
    spread: torch.Tensor | None = None
    real: torch.Tensor | None = None
    gather: torch.Tensor | None = None

    @classmethod
    def of(cls, lengths_B: torch.Tensor, position_T: torch.Tensor, longest: int, varlen: bool) -> Self:
        edges = torch.nn.functional.pad(lengths_B.cumsum(0), (1, 0))
        tokens, texts = len(position_T), len(lengths_B)
        if varlen or tokens == texts * longest:
            return cls(edges.int(), longest, varlen)
        device = lengths_B.device
        place_L = torch.arange(longest, device=device)
        # Of the same text, so that nothing of one text, NaN least of all, ever meets another.
        spread_BL = torch.minimum(edges[:-1, None] + place_L, edges[1:, None] - 1)
        row_T = torch.arange(texts, device=device).repeat_interleave(lengths_B, output_size=tokens)
        real_BL = place_L < lengths_B[:, None]
        return cls(edges.int(), longest, varlen, spread_BL, real_BL, row_T * longest + position_T)


class Albert(torch.nn.Module):
    """A replica of a checkpoint: packed token ids in, packed token vectors out.

    Raises:
        ModelError: the checkpoint lacks a weight, or has one that we don't know.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        config = AlbertConfig.from_pretrained(checkpoint.folder)
        if config.hidden_act == "gelu_new":
            # The same function in one pass instead of eight: within 2e-6, 1.2 to 1.4 times faster on a CPU.
            config.hidden_act = "gelu_pytorch_tanh"
        self.varlen = _has_varlen(config, device, dtype)
        config._attn_implementation = PACKED
        with torch.device("meta"):
            self.model = AlbertModel(config, add_pooling_layer=False)
        self.model.to_empty(device="cpu")
        self.model.load_state_dict(dict(_tensors(checkpoint)), strict=True)
        self._fill_buffers()
        self.to(device=device, dtype=dtype).eval().requires_grad_(False)
        if device.type == "cpu" and dtype == torch.float32 and onednn.available():
            self._prepack(config.hidden_act)

    def _prepack(self, activation: str) -> None:
        for group in self.model.encoder.albert_layer_groups:
            for layer in group.albert_layers:
                if activation in onednn.FUSED:
                    layer.ffn = onednn.PrepackedLinear(layer.ffn, activation)
                    layer.activation = torch.nn.Identity()
        onednn.prepack(self.model)

    def _fill_buffers(self) -> None:
        """The buffers that no checkpoint stores, left empty by `to_empty`."""
        embeddings = self.model.embeddings
        embeddings.position_ids.copy_(torch.arange(embeddings.position_ids.shape[-1]).unsqueeze(0))
        embeddings.token_type_ids.zero_()

    def forward(self, ids_T: torch.Tensor, lengths_B: torch.Tensor, longest: int) -> torch.Tensor:
        """Last hidden state of shape (T, D).

        Args:
            ids_T: int64, of all texts.  lengths_B: int64, on the same device.
            longest: the greatest of `lengths_B`, known without asking the device.
        """
        position_T = positions(lengths_B, len(ids_T))
        packing = Packing.of(lengths_B, position_T, longest, self.varlen)
        hidden_1TD: torch.Tensor = self.model(
            input_ids=ids_T.unsqueeze(0), position_ids=position_T.unsqueeze(0), packing=packing
        ).last_hidden_state
        return hidden_1TD.squeeze(0)


def _has_varlen(config: AlbertConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's attention of variable length takes this model (torch.nn.attention.varlen)."""
    size = config.hidden_size // config.num_attention_heads
    return (
        device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and size % 8 == 0 and size <= 256
    )


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each text: (1, H, T, C) each in, (1, T, H, C) out."""
    del module, attention_mask
    query_THC, key_THC, value_THC = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attend = _varlen if packing.varlen else _padded
    return attend(query_THC, key_THC, value_THC, packing, scaling).unsqueeze(0), None


def _varlen(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    packing: Packing,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  (CUDA's kernels, only where there are)

    edges, longest = packing.edges, packing.longest
    attended = varlen_attn(query_THC, key_THC, value_THC, edges, edges, longest, longest, scale=scaling)
    assert isinstance(attended, torch.Tensor)  # a pair only where more is asked for
    return attended


def _padded(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    packing: Packing,
    scaling: float | None,
) -> torch.Tensor:
    """The same on any device, in any dtype."""
    tokens, heads, size = query_THC.shape
    if packing.spread is None or packing.real is None or packing.gather is None:
        shape = (tokens // packing.longest, packing.longest, heads, size)
        query, key, value = (t.reshape(shape).transpose(1, 2) for t in (query_THC, key_THC, value_THC))
        attended_BHLC = scaled_dot_product_attention(query, key, value, scale=scaling)
        return attended_BHLC.transpose(1, 2).reshape(tokens, heads, size)
    query, key, value = (t[packing.spread].transpose(1, 2) for t in (query_THC, key_THC, value_THC))
    mask_B11L = packing.real[:, None, None, :]
    attended_BHLC = scaled_dot_product_attention(query, key, value, attn_mask=mask_B11L, scale=scaling)
    return attended_BHLC.transpose(1, 2).flatten(0, 1)[packing.gather]


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    if checkpoint.pickled:
        stored = _unpickled(checkpoint)
        names = checkpoint.match({name: tuple(tensor.shape) for name, tensor in stored.items()})
        yield from ((name, stored[where].float()) for name, where in names.items())
        return
    files = checkpoint.stored()
    for name, stored_name in checkpoint.match({name: shape for name, (_, shape) in files.items()}).items():
        with safe_open(files[stored_name][0], framework="pt") as file:
            yield name, file.get_tensor(stored_name).float()


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
