"""Attention of packed texts: each token over those of its own text.

torch's kernel for texts of different lengths serves where there is one (CUDA, bfloat16). Elsewhere the inputs
are padded to the longest text of the micro-batch, and the output is packed again.

Shapes: B texts, T tokens of all of them, L of the longest, H heads, C a head's dimensions.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

AMPERE = (8, 0)
"""The compute capability from which on a GPU multiplies bfloat16 itself, and has torch's kernel."""


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
        edges = pad(lengths_B.cumsum(0), (1, 0))
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


def attend(
    query_THC: torch.Tensor, key_THC: torch.Tensor, value_THC: torch.Tensor, packing: Packing
) -> torch.Tensor:
    """Returns what each token attends to, (T, H, C)."""
    return (_varlen if packing.varlen else _padded)(query_THC, key_THC, value_THC, packing)


def has_varlen(size: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Tells whether torch's attention of variable length takes heads of this size.

    It is torch.nn.attention.varlen.
    """
    halves = dtype in (torch.bfloat16, torch.float16) and size % 8 == 0 and size <= 256
    return device.type == "cuda" and halves and torch.cuda.get_device_capability(device) >= AMPERE


def _varlen(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    packing: Packing,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  (CUDA's kernels, only where there are)

    edges, longest = packing.edges, packing.longest
    attended = varlen_attn(query_THC, key_THC, value_THC, edges, edges, longest, longest)
    assert isinstance(attended, torch.Tensor)  # a pair only where more is asked for
    return attended


def _padded(
    query_THC: torch.Tensor,
    key_THC: torch.Tensor,
    value_THC: torch.Tensor,
    packing: Packing,
) -> torch.Tensor:
    """The same on any device, in any dtype."""
    tokens, heads, size = query_THC.shape
    if packing.spread is None or packing.real is None or packing.gather is None:
        shape = (tokens // packing.longest, packing.longest, heads, size)
        query, key, value = (t.reshape(shape).transpose(1, 2) for t in (query_THC, key_THC, value_THC))
        attended_BHLC = scaled_dot_product_attention(query, key, value)
        return attended_BHLC.transpose(1, 2).reshape(tokens, heads, size)
    query, key, value = (t[packing.spread].transpose(1, 2) for t in (query_THC, key_THC, value_THC))
    mask_B11L = packing.real[:, None, None, :]
    attended_BHLC = scaled_dot_product_attention(query, key, value, attn_mask=mask_B11L)
    return attended_BHLC.transpose(1, 2).flatten(0, 1)[packing.gather]
