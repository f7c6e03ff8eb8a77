"""Tests the means of the vectors of windows."""

import numpy as np

from pipeline.dataset.vectors import mean_of_chunks


def test_the_mean_of_chunks_is_weighted_by_tokens() -> None:
    vectors = np.array([[1, 0], [0, 1], [3, 4]], np.float32)
    means = mean_of_chunks(vectors, np.array([3, 1, 9]), np.array([2, 1]), normalize=False)
    np.testing.assert_allclose(means, [[0.75, 0.25], [3, 4]])
    means = mean_of_chunks(vectors, np.array([3, 1, 9]), np.array([2, 1]), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(means[0]), 1, rtol=1e-6)
    assert mean_of_chunks(vectors[:0], np.array([], int), np.array([], int), normalize=True).shape == (0, 2)
