"""Tests the encoder on a real GPU; the tests are skipped, with the reason, without one."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model import kernels
from pipeline.model.batching import TokenBatch
from pipeline.model.encoder import Encoder
from pipeline.model.fused_layer import FusedLayer
from tests.conftest import make_checkpoint
from tests.model.test_encoder import GEOMETRIES, TEXTS, tokenized

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
MANY = [f"{text} {number}" for number in range(400) for text in TEXTS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "base", **GEOMETRIES["albert-base-v2"])


def test_bfloat16_without_padding_is_near_float32(base: Path) -> None:
    tokens = tokenized(base, TEXTS)
    exact = Encoder(base).encode(tokens)
    encoder = Encoder(base, device="cuda", dtype="bfloat16")
    assert encoder.model.varlen
    assert (exact * encoder.encode(tokens)).sum(1).min() > 0.999


def test_float32_equals_the_cpu(base: Path) -> None:
    tokens = tokenized(base, TEXTS)
    exact = Encoder(base).encode(tokens)
    np.testing.assert_allclose(Encoder(base, device="cuda").encode(tokens), exact, atol=1e-4)


def test_a_capped_memory_costs_budget_and_no_row(base: Path) -> None:
    tokens = tokenized(base, MANY)
    # All texts are in one micro-batch: a smaller one that fails is halved, and the budget stays.
    budget = int(tokens.lengths.sum())
    encoder = Encoder(base, device="cuda", dtype="bfloat16", batch_tokens=budget)
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (256 << 20)) / total)
    try:
        encoded = encoder.run(tokens)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert encoder.batch_tokens < budget
    assert not encoded.too_large.any()
    assert np.isfinite(encoded.values).all()


def test_layers_are_fused_and_near_the_plain_ones(base: Path) -> None:
    encoder = Encoder(base, device="cuda", dtype="bfloat16")
    (group,) = encoder.model.encoder.albert_layer_groups
    (layer,) = group.albert_layers  # type: ignore[union-attr, misc]
    assert isinstance(layer, FusedLayer)
    assert layer.with_kernels == kernels.LOADED
    assert layer.epilogue


def test_kernels_equal_torch() -> None:
    if not kernels.LOADED:
        pytest.skip("Triton is not installed")
    torch.manual_seed(0)
    for heads, size, lengths in (
        (12, 64, [1, 3, 16]), (12, 26, [5, 9, 60, 64]), (2, 128, [127, 128, 1]), (12, 64, [90, 300, 1, 512]),
    ):  # fmt: skip
        qkv = torch.randn(sum(lengths), 3 * heads * size, device="cuda", dtype=torch.bfloat16)
        edges = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
        found = kernels.attention(qkv, heads, edges, max(lengths)).float()
        for start, length in zip(edges.tolist(), lengths, strict=False):
            own = qkv[start : start + length].float().view(length, 3, heads, size)
            parts = (part.transpose(0, 1) for part in own.unbind(1))
            wanted = torch.nn.functional.scaled_dot_product_attention(*parts).transpose(0, 1).flatten(1)
            off = (found[start : start + length] - wanted).norm() / wanted.norm()
            assert off < 0.01, (heads, size, length)


def test_more_texts_than_a_grid_has_places(base: Path) -> None:
    generator = np.random.default_rng(0)
    ids = generator.integers(5, 16_000, 3 * 70_000).astype(np.uint16)
    tokens = TokenBatch(ids, np.arange(0, len(ids) + 1, 3), np.zeros(70_000, np.bool_))
    encoder = Encoder(base, device="cuda", dtype="bfloat16", batch_tokens=1 << 18)
    assert np.isfinite(encoder.encode(tokens)).all()


def test_where_vectors_are_gathered_changes_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tokenized(base, [*MANY, *MANY[:100]])
    encoder = Encoder(base, device="cuda", dtype="bfloat16")
    on_device = encoder.encode(tokens)
    monkeypatch.setattr("pipeline.model.vector_buffer.RESULTS_SHARE", 0)
    np.testing.assert_array_equal(encoder.encode(tokens), on_device)
    np.testing.assert_array_equal(on_device[-100:], on_device[:100])
