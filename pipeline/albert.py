"""ALBERT's weights and forward pass; the only file that knows transformers' model.

Texts come and go packed: one behind the other, without padding. Where the device has an attention of
variable length (CUDA, bfloat16) they stay so; elsewhere they are padded to the longest of the micro-batch,
which sorting by length has made about as long as the others.

Shapes: B texts, T tokens of all of them, L of the longest, H heads, C a head's dimensions, D dimensions.
"""

from collections.abc import Iterator
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.functional import scaled_dot_product_attention
from transformers import AlbertConfig, AlbertModel, AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from pipeline.checkpoint import Checkpoint
from pipeline.errors import ModelError

PACKED = "albert_packed"


class Albert(torch.nn.Module):
    """A replica of a checkpoint: packed token ids in, packed token vectors out.

    Args:
        packed: run without padding. On a CPU this is a plain reference, for tests.

    Raises:
        ModelError: the checkpoint lacks a weight, or has one that we don't know.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, packed: bool | None = None
    ) -> None:
        super().__init__()
        config = AlbertConfig.from_pretrained(checkpoint.folder)
        if config.hidden_act == "gelu_new":
            # The same function in one pass instead of eight: within 2e-6, 1.2 to 1.4 times faster on a CPU.
            config.hidden_act = "gelu_pytorch_tanh"
        self.packed = _can_pack(config, device, dtype) if packed is None else packed
        config._attn_implementation = PACKED if self.packed else "sdpa"
        with torch.device("meta"):
            self.model = AlbertModel(config, add_pooling_layer=False)
        self.model.to_empty(device="cpu")
        self.model.load_state_dict(dict(_tensors(checkpoint)), strict=True)
        self._fill_buffers()
        self.to(device=device, dtype=dtype).eval().requires_grad_(False)

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
        return (
            self._packed(ids_T, lengths_B, longest)
            if self.packed
            else self._padded(ids_T, lengths_B, longest)
        )

    def _padded(self, ids_T: torch.Tensor, lengths_B: torch.Tensor, longest: int) -> torch.Tensor:
        if len(ids_T) == len(lengths_B) * longest:  # all alike: without a mask SDPA takes its fast path
            alike_BLD: torch.Tensor = self.model(input_ids=ids_T.view(-1, longest)).last_hidden_state
            return alike_BLD.flatten(0, 1)
        mask_BL = torch.arange(longest, device=ids_T.device) < lengths_B.unsqueeze(-1)
        ids_BL = ids_T.new_zeros(mask_BL.shape)
        ids_BL[mask_BL] = ids_T
        hidden_BLD: torch.Tensor = self.model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        return hidden_BLD[mask_BL]

    def _packed(self, ids_T: torch.Tensor, lengths_B: torch.Tensor, longest: int) -> torch.Tensor:
        stops_B = lengths_B.cumsum(0)
        starts_T = (stops_B - lengths_B).repeat_interleave(lengths_B, output_size=len(ids_T))
        position_T = torch.arange(len(ids_T), device=ids_T.device) - starts_T
        edges = torch.nn.functional.pad(stops_B, (1, 0)).int()
        hidden_1TD: torch.Tensor = self.model(
            input_ids=ids_T.unsqueeze(0),
            position_ids=position_T.unsqueeze(0),
            edges=edges,
            longest=longest,
        ).last_hidden_state
        return hidden_1TD.squeeze(0)


def _can_pack(config: AlbertConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's attention of variable length takes this model (torch.nn.attention.varlen)."""
    size = config.hidden_size // config.num_attention_heads
    return (
        device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and size % 8 == 0 and size <= 256
    )


def _attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    edges: torch.Tensor,
    longest: int,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each text: (1, H, T, C) each in, (1, T, H, C) out."""
    del module, attention_mask
    query_THC, key_THC, value_THC = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attend = _varlen if query.is_cuda else _one_by_one
    return attend(query_THC, key_THC, value_THC, edges, longest, scaling).unsqueeze(0), None


def _varlen(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    edges: torch.Tensor,
    longest: int,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  (CUDA's kernels, only where there are)

    attended = varlen_attn(query_THC, key_THC, value_THC, edges, edges, longest, longest, scale=scaling)
    assert isinstance(attended, torch.Tensor)  # a pair only where more is asked for
    return attended


def _one_by_one(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    edges: torch.Tensor,
    longest: int,
    scaling: float | None,
) -> torch.Tensor:
    """The same as `_varlen`, a text at a time: what it is tested against."""
    del longest
    parts = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        query, key, value = (tensor[start:stop].transpose(0, 1) for tensor in (query_THC, key_THC, value_THC))
        parts.append(scaled_dot_product_attention(query, key, value, scale=scaling).transpose(0, 1))
    return torch.cat(parts)


AttentionInterface.register(PACKED, _attend_packed)
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
        raise ModelError("can't be read as bare weights", str(path), reason) from None
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise ModelError("is no mapping of weights", str(path), type(found).__name__)
    return found
