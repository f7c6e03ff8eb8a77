"""Checks that micro-batches have each text once, stay within the budget, and need little padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.batching import micro_batches


@given(st.lists(st.integers(1, 600), max_size=300), st.integers(1, 2000), st.sampled_from([1.0, 2.0, np.inf]))
def test_every_text_once_and_within_the_budget(lengths: list[int], budget: int, stretch: float) -> None:
    lengths_N = np.asarray(lengths, np.int64)
    batches = list(micro_batches(lengths_N, budget, stretch))
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or lengths_N[batch].sum() <= budget
        assert len(batch) == 1 or len(batch) * lengths_N[batch].max() <= stretch * budget


def test_batches_are_full_and_pad_little() -> None:
    lengths_N = np.random.default_rng(0).geometric(1 / 50, 10_000).clip(1, 512)
    batches = list(micro_batches(lengths_N, 4096))
    assert len(batches) < 1.05 * lengths_N.sum() / 4096
    assert sum(len(batch) * lengths_N[batch].max() for batch in batches) < 1.1 * lengths_N.sum()


def test_one_giant_among_dwarfs_does_not_pad_them_all() -> None:
    lengths_N = np.array([512] + [2] * 200)
    batches = list(micro_batches(lengths_N, 1024))
    assert max(len(batch) * lengths_N[batch].max() for batch in batches) <= 2048
