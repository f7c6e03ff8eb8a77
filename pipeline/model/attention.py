"""Computes attention of packed texts, from each token to the tokens of its own text.

On CUDA in bfloat16, torch's kernel for texts of different lengths does it. Elsewhere the inputs are padded to
the longest text of the micro-batch, and the output is packed again.

Shapes: B texts, T tokens of all texts, L tokens of the longest, H heads, C dimensions of a head.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from pipeline.model.pooling import positions

AMPERE = (8, 0)
"""The lowest compute capability that multiplies bfloat16 in hardware and runs torch's kernel."""


@dataclass(frozen=True, slots=True)
class Packing:
    """The layout of a micro-batch's texts, in flash-attention's terms.

    cu_seqlens: (B + 1,) int32, the offset where each text begins, and the end.  max_seqlen: L.
    position_ids: (T,) the position of each token in its text.
    varlen: attention runs over the packed texts in place, without padding.
    type_ids: (T,) 1 for the tokens of second texts, else 0; None without pairs.
    pad_index: (B, L) for each place of a padded batch, a token of the same text: its own, or the last.
    pad_mask: (B, L) bool, true if it is its own.
    unpad_index: (T,) the place of each token in the padded batch.
    The last three are None if no padding is needed.
    score_bias: (B, H, L, L) or (1, H, L, L) what a family adds to the scores of a padded batch, minus
    infinity at places of padding; None if it adds nothing.
    """

    cu_seqlens: torch.Tensor
    max_seqlen: int
    position_ids: torch.Tensor
    varlen: bool
    pad_index: torch.Tensor | None = None
    pad_mask: torch.Tensor | None = None
    unpad_index: torch.Tensor | None = None
    type_ids: torch.Tensor | None = None
    score_bias: torch.Tensor | None = None

    @classmethod
    def of(cls, lengths_B: torch.Tensor, tokens: int, max_seqlen: int, varlen: bool) -> Self:
        """Packs texts of these lengths.

        Args:
            lengths_B: int64 tokens of each text.
            tokens, max_seqlen: their sum and maximum, so that the device is not asked for them.
        """
        ends, texts = pad(lengths_B.cumsum(0), (1, 0)), len(lengths_B)
        position_T = positions(lengths_B, tokens)
        if varlen or tokens == texts * max_seqlen:
            return cls(ends.int(), max_seqlen, position_T, varlen)
        device = lengths_B.device
        place_L = torch.arange(max_seqlen, device=device)
        # Padding repeats tokens of the same text, so that no value of another text (above all NaN) gets in.
        index_BL = torch.minimum(ends[:-1, None] + place_L, ends[1:, None] - 1)
        row_T = torch.arange(texts, device=device).repeat_interleave(lengths_B, output_size=tokens)
        mask_BL = place_L < lengths_B[:, None]
        unpad_T = row_T * max_seqlen + position_T
        return cls(ends.int(), max_seqlen, position_T, varlen, index_BL, mask_BL, unpad_T)


def attend(
    query_THC: torch.Tensor, key_THC: torch.Tensor, value_THC: torch.Tensor, packing: Packing
) -> torch.Tensor:
    """Returns the attention output of each token, (T, H, C)."""
    return (_varlen if packing.varlen else _padded)(query_THC, key_THC, value_THC, packing)


def has_varlen(size: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Tells whether `torch.nn.attention.varlen` (attention of variable length) takes heads of this size."""
    halves = dtype in (torch.bfloat16, torch.float16) and size % 8 == 0 and size <= 256
    return device.type == "cuda" and halves and torch.cuda.get_device_capability(device) >= AMPERE


def _varlen(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    packing: Packing,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  (CUDA's kernels, only if there are any)

    ends, longest = packing.cu_seqlens, packing.max_seqlen
    attended = varlen_attn(query_THC, key_THC, value_THC, ends, ends, longest, longest)
    assert isinstance(attended, torch.Tensor)  # a pair only if more is requested
    return attended


def _padded(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    packing: Packing,
) -> torch.Tensor:
    """Computes the same as `_varlen` on any device, in any dtype."""
    tokens, heads, size = query_THC.shape
    if packing.pad_index is None or packing.pad_mask is None or packing.unpad_index is None:
        shape = (tokens // packing.max_seqlen, packing.max_seqlen, heads, size)
        query, key, value = (t.reshape(shape).transpose(1, 2) for t in (query_THC, key_THC, value_THC))
        attended_BHLC = scaled_dot_product_attention(query, key, value, attn_mask=packing.score_bias)
        return attended_BHLC.transpose(1, 2).reshape(tokens, heads, size)
    query, key, value = (t[packing.pad_index].transpose(1, 2) for t in (query_THC, key_THC, value_THC))
    mask = packing.pad_mask[:, None, None, :] if packing.score_bias is None else packing.score_bias
    attended_BHLC = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended_BHLC.transpose(1, 2).flatten(0, 1)[packing.unpad_index]
