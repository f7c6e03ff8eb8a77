"""The encoder on a real GPU; skipped, with the reason, where there is none."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encoder import Encoder
from tests.conftest import make_checkpoint
from tests.test_encoder import GEOMETRIES, TEXTS, tokenized

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
    # All in one micro-batch: a smaller one that fails is cut in two and blames no budget.
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
    assert np.isfinite(encoded.vectors).all()
