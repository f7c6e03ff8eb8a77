"""Compares the Triton kernels with torch's own operators, in Triton's interpreter, without a GPU.

The interpreter must be chosen before Triton is imported, so another process runs them. It multiplies
bfloat16 as if its bits were integers, so the numbers are float32 here; tests/gpu has bfloat16.
"""

import os
import subprocess
import sys

import pytest

from pipeline.model import kernels

CHECK = """
import torch
from torch.nn.functional import scaled_dot_product_attention

from pipeline.model import kernels

torch.manual_seed(0)
for size in (312, 768, 2048):
    norm = torch.nn.LayerNorm(size, eps=1e-12)
    torch.nn.init.normal_(norm.weight, 1.0, 0.2)
    torch.nn.init.normal_(norm.bias, 0.0, 0.2)
    x, residual = torch.randn(13, size) * 3, torch.randn(13, size)
    torch.testing.assert_close(kernels.add_norm(x, residual, norm), norm(x + residual), atol=1e-5, rtol=0)
for heads, size, lengths in (
    (12, 64, [1, 3, 16]), (12, 64, [17, 2, 31, 32]), (12, 26, [5, 9, 60, 64]), (2, 128, [127, 128, 1]),
    (3, 64, [90, 300, 1, 129]), (1, 8, [513]),
):
    qkv = torch.randn(sum(lengths), 3 * heads * size)
    edges = torch.tensor([0, *lengths]).cumsum(0).int()
    found = kernels.attention(qkv, heads, edges, max(lengths))
    start = 0
    for length in lengths:
        own = slice(start, start + length)
        parts = (part.transpose(0, 1) for part in qkv[own].view(length, 3, heads, size).unbind(1))
        wanted = scaled_dot_product_attention(*parts).transpose(0, 1).flatten(1)
        torch.testing.assert_close(found[own], wanted, atol=1e-5, rtol=0)
        start += length
    qkv[: lengths[0]] = torch.nan
    others = kernels.attention(qkv, heads, edges, max(lengths))[lengths[0] :]
    torch.testing.assert_close(others, found[lengths[0] :], atol=0, rtol=0)
print("equal")
"""


def test_the_tile_holds_the_longest_text_while_there_is_one_that_does() -> None:
    assert [kernels.tile_for(longest).keys for longest in (1, 16, 17, 33, 64)] == [16, 16, 32, 64, 64]
    assert kernels.tile_for(65) is kernels.tile_for(4096) is kernels.LONG


@pytest.mark.skipif(
    not kernels.LOADED and "PIPELINE_TRITON" not in os.environ,
    reason="Triton is not installed; `make .triton/.ready` and PIPELINE_TRITON=.triton",
)
def test_kernels_equal_torch_and_no_text_meets_another() -> None:
    places = [os.environ.get("PYTHONPATH", ""), os.environ.get("PIPELINE_TRITON", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, places))}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout == "equal\n", done.stderr
