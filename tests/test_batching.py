"""Micro-batches: each text once, none above the budget, little padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import micro_batches


@given(st.lists(st.integers(1, 600), max_size=300), st.integers(1, 2000))
def test_every_text_once_and_within_the_budget(lengths: list[int], budget: int) -> None:
    lengths_N = np.asarray(lengths, np.int64)
    batches = list(micro_batches(lengths_N, budget))
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths_N[batch].max() <= budget


def test_sorted_batches_pad_little() -> None:
    lengths_N = np.random.default_rng(0).geometric(1 / 50, 10_000).clip(1, 512)
    padded = sum(len(batch) * lengths_N[batch].max() for batch in micro_batches(lengths_N, 4096))
    assert padded < 1.1 * lengths_N.sum()
