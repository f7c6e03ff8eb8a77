"""Checks that a prepacked layer computes the plain one and its activation."""

import pytest
import torch
from transformers.activations import ACT2FN

from pipeline.model import onednn_linear
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.attention import Packing
from pipeline.model.checkpoint import resolve
from pipeline.model.transformer import load_transformer


@pytest.mark.skipif(not onednn_linear.available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("activation", [None, *(name for name, each in ACTIVATIONS.items() if each.onednn)])
@pytest.mark.parametrize("shape", [(1, 8), (1, 0, 8), (2, 37, 8)])
def test_equals_the_plain_layer(activation: str | None, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear, values = torch.nn.Linear(8, 24), torch.randn(shape)
    with torch.inference_mode():
        wanted = linear(values)
        wanted = ACT2FN[activation](wanted) if activation else wanted
        torch.testing.assert_close(
            onednn_linear.PrepackedLinear(linear, activation)(values), wanted, atol=1e-6, rtol=1e-5
        )


def test_without_the_operators_the_plain_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (torch.tensor([2, 50, 3, 2, 3]), Packing.of(torch.tensor([3, 2]), 5, 3, varlen=False))
    with torch.inference_mode():
        fast = load_transformer(resolve("albert-mini"), torch.device("cpu"), torch.float32)(*arguments)
        monkeypatch.setattr(onednn_linear, "available", lambda: False)
        plain = load_transformer(resolve("albert-mini"), torch.device("cpu"), torch.float32)(*arguments)
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)
