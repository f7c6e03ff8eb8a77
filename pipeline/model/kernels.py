"""Two Triton kernels for a GPU: residual and LayerNorm, and attention over packed texts.

Tests compare both with torch's own operators, which take more passes over memory:

- `add_norm`: for `LayerNorm(x + residual)` torch runs an addition and a norm, which read three tensors and
  write two. The kernel reads two and writes one, and the sum stays in float32.
- `attention`: softmax(Q K^T / sqrt(C)) V of each text on its own (Vaswani et al. 2017, arXiv:1706.03762). A
  program takes a tile of queries of one text and one head and walks over the text's keys, with the running
  maximum and sum of "online" softmax (Milakov and Gimelshein 2018, arXiv:1805.02867), as flash-attention does
  (Dao et al. 2022, arXiv:2205.14135). Its tiles follow the longest text of the micro-batch: torch's kernel
  always computes 128 x 128 scores, though a title has 20 tokens. It reads queries, keys and values where the
  joint product wrote them.

Triton comes with torch's CUDA wheels and needs a C compiler on the node (docs/operations.md). If it is
missing, `LOADED` is false and nothing in this module may be called.

Shapes: B texts, T tokens of all texts, H heads, C dimensions of a head, D = H * C.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from dataclasses import dataclass

import torch

try:
    import triton
    import triton.language as tl

    LOADED = True
except ImportError:  # torch's CPU builds come without Triton
    LOADED = False

LOG2_E = 1.4426950408889634
"""`exp2(x * LOG2_E)` is `exp(x)`; the hardware has only `exp2`."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of attention: its queries and keys, and the warps and stages of a program."""

    queries: int
    keys: int
    warps: int
    stages: int = 2


TILES = (Tile(16, 16, 1), Tile(32, 32, 1), Tile(64, 64, 2))
"""Tiles for texts of at most `keys` tokens: the fastest of thirteen on an H100 (benchmarks/gpu.md)."""
LONG = Tile(64, 64, 4, 3)
"""The tile for longer texts."""


def tile_for(longest: int) -> Tile:
    """Chooses the tile for a micro-batch whose longest text has `longest` tokens."""
    return next((tile for tile in TILES if longest <= tile.keys), LONG)


if LOADED:

    @triton.jit
    def _add_norm(  # noqa: PLR0913, PLR0917
        x,
        residual,
        weight,
        bias,
        out,
        tokens,
        epsilon,
        D: tl.constexpr,
        BLOCK: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        column = tl.arange(0, BLOCK)
        mask = (row[:, None] < tokens) & (column[None, :] < D)
        place = row[:, None].to(tl.int64) * D + column[None, :]
        total = tl.load(x + place, mask, 0).to(tl.float32) + tl.load(residual + place, mask, 0).to(tl.float32)
        centred = tl.where(mask, total - (tl.sum(total, 1) / D)[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + epsilon)
        gain = tl.load(weight + column, column < D, 0).to(tl.float32)
        shift = tl.load(bias + column, column < D, 0).to(tl.float32)
        normed = centred * scale[:, None] * gain[None, :] + shift[None, :]
        tl.store(out + place, normed.to(out.dtype.element_ty), mask)

    @triton.jit
    def _attention(  # noqa: PLR0913, PLR0917
        qkv,
        cu_seqlens,
        out,
        scale,
        tiles,
        H: tl.constexpr,
        C: tl.constexpr,
        BLOCK: tl.constexpr,
        M: tl.constexpr,
        N: tl.constexpr,
    ):
        head, tile = tl.program_id(0) % H, tl.program_id(0) // H % tiles
        text = tl.program_id(0) // H // tiles
        start = tl.load(cu_seqlens + text).to(tl.int64)
        length = (tl.load(cu_seqlens + text + 1) - start).to(tl.int32)
        if tile * M >= length:
            return
        query_place = tile * M + tl.arange(0, M)
        dimension = tl.arange(0, BLOCK)
        inside = (query_place[:, None] < length) & (dimension[None, :] < C)
        row = (start + query_place)[:, None]
        query = tl.load(qkv + row * (3 * H * C) + head * C + dimension[None, :], inside, 0.0)
        greatest = tl.full((M,), float("-inf"), tl.float32)
        total = tl.zeros((M,), tl.float32)
        attended = tl.zeros((M, BLOCK), tl.float32)
        for first in range(0, length, N):
            key_place = first + tl.arange(0, N)
            mask = (key_place[:, None] < length) & (dimension[None, :] < C)
            place = (start + key_place)[:, None] * (3 * H * C) + (H + head) * C + dimension[None, :]
            key = tl.load(qkv + place, mask, 0.0)
            value = tl.load(qkv + place + H * C, mask, 0.0)
            scores = tl.dot(query, tl.trans(key)) * scale
            scores = tl.where(key_place[None, :] < length, scores, float("-inf"))
            new_greatest = tl.maximum(greatest, tl.max(scores, 1))
            weights = tl.exp2(scores - new_greatest[:, None])
            shrink = tl.exp2(greatest - new_greatest)
            total = total * shrink + tl.sum(weights, 1)
            attended = attended * shrink[:, None] + tl.dot(weights.to(value.dtype), value)
            greatest = new_greatest
        attended = attended / total[:, None]
        tl.store(
            out + row * (H * C) + head * C + dimension[None, :], attended.to(out.dtype.element_ty), inside
        )


def add_norm(x_TD: torch.Tensor, residual_TD: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """Returns `norm(x + residual)`, (T, D)."""
    tokens, size = x_TD.shape
    out_TD = torch.empty_like(x_TD)
    rows = 4 if size <= 1024 else 1
    _add_norm[(triton.cdiv(tokens, rows),)](
        x_TD, residual_TD, norm.weight, norm.bias, out_TD, tokens, norm.eps,
        D=size, BLOCK=triton.next_power_of_2(size), ROWS=rows, num_warps=4,
    )  # fmt: skip
    return out_TD


def attention(qkv_TD3: torch.Tensor, heads: int, cu_seqlens: torch.Tensor, max_seqlen: int) -> torch.Tensor:
    """Returns the attention output of each token, (T, D).

    Args:
        qkv_TD3: (T, 3 D), contiguous: queries, keys and values of all heads, side by side.
        cu_seqlens: (B + 1,) int32, the offset where each text begins, and the end.
        max_seqlen: tokens of the longest text.
    """
    tokens, width = qkv_TD3.shape
    size, tile = width // 3 // heads, tile_for(max_seqlen)
    out_TD = torch.empty((tokens, width // 3), dtype=qkv_TD3.dtype, device=qkv_TD3.device)
    tiles = triton.cdiv(max_seqlen, tile.queries)
    _attention[((len(cu_seqlens) - 1) * tiles * heads,)](
        qkv_TD3, cu_seqlens, out_TD, size**-0.5 * LOG2_E, tiles,
        H=heads, C=size, BLOCK=max(16, triton.next_power_of_2(size)), M=tile.queries, N=tile.keys,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out_TD
