"""Checks that a fused layer computes the same as the plain one, or is not used; see tests/gpu for GPUs."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model import checkpoint, fused_layer, kernels
from pipeline.model import layer as plain
from pipeline.model.albert.forward import Albert
from pipeline.model.attention import Packing
from pipeline.model.fused_layer import FusedLayer
from pipeline.model.transformer import load_transformer
from tests.conftest import make_checkpoint


@pytest.fixture(params=("gelu_new", "gelu", "relu"))
def layer(tmp_path: Path, request: pytest.FixtureRequest) -> torch.nn.Module:
    """Returns a plain float32 layer, loaded in bfloat16 so that nothing is prepacked."""
    folder = make_checkpoint(tmp_path / "model", hidden_act=request.param)
    model = load_transformer(checkpoint.resolve(str(folder)), torch.device("cpu"), torch.bfloat16)
    assert isinstance(model, Albert)
    found = model.float().encoder.albert_layer_groups[0].albert_layers[0]  # type: ignore[union-attr, index]
    assert isinstance(found, plain.Layer)
    found.name = request.param  # type: ignore[assignment]
    return found


def test_equals_the_plain_layer(layer: Any) -> None:
    lengths = torch.tensor([3, 1, 7])
    packing = Packing.of(lengths, 11, 7, varlen=False)
    hidden = torch.randn(11, layer.ffn.in_features)
    made = FusedLayer(layer, layer.name, with_kernels=False)
    torch.testing.assert_close(made(hidden, packing), layer(hidden, packing), atol=1e-5, rtol=0)
    assert fused_layer.difference(made, layer) < 1e-5


def test_each_layer_of_a_model_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LOADED", False)
    model = load_transformer(checkpoint.resolve("albert-mini"), torch.device("cpu"), torch.bfloat16)
    assert isinstance(model, Albert)
    before = sum(isinstance(each, plain.Layer) for each in model.modules())
    plain._fuse(model, "gelu_new")
    assert sum(isinstance(each, FusedLayer) for each in model.modules()) == before > 0
    assert not any(isinstance(each, plain.Layer) for each in model.modules())


def test_the_check_passes_for_what_is_equal(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LOADED", False)
    assert isinstance(fused_layer.quickest(layer, layer.name), FusedLayer)


def test_kernels_that_do_not_compile_are_left_out(
    layer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no C compiler")

    monkeypatch.setattr(kernels, "LOADED", True)
    monkeypatch.setattr(kernels, "attention", fail, raising=False)
    with caplog.at_level(logging.WARNING, "pipeline"):
        found = fused_layer.quickest(layer, layer.name)
    assert isinstance(found, FusedLayer)
    assert not found.with_kernels
    assert "no C compiler" in caplog.text


@pytest.mark.parametrize("wrong", [lambda x, *_: x, lambda x, *_: x * torch.nan], ids=["other", "nan"])
def test_a_layer_that_differs_is_not_used(
    layer: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "LOADED", False)
    monkeypatch.setattr(FusedLayer, "_add_norm", lambda _, x, *rest: wrong(x, *rest))
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert fused_layer.quickest(layer, layer.name) is layer
    assert "differs from the plain layer" in caplog.text
