"""Stored vectors come back as near as their kind allows."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dataset.vectors import load, mean_of_chunks, store, stored_fields


def table(vectors: np.ndarray, kind: str) -> pa.Table:
    fields = stored_fields(kind, vectors.shape[1])
    return pa.Table.from_arrays(store(vectors, kind), schema=pa.schema(fields))


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_there_and_back(rows: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(rows, 11)).astype(np.float32)
    np.testing.assert_array_equal(load(table(vectors, "float32"), 11), vectors)
    np.testing.assert_array_equal(load(table(vectors, "binary"), 11), np.where(vectors > 0, 1, -1))
    quantized = table(vectors, "int8")
    half_a_step = 0.5001 * quantized.column("embedding_scale").to_numpy()[:, None]
    assert (np.abs(load(quantized, 11) - vectors) <= half_a_step).all()


def test_a_zero_vector_stays_zero() -> None:
    assert not load(table(np.zeros((2, 3), np.float32), "int8"), 3).any()


def test_bits_by_hand() -> None:
    stored = table(np.array([[1, -1, 0.5, 0, 2, -3, 1, 1, 1]], np.float32), "binary")
    assert stored.column("embedding")[0].as_py() == bytes([0b10101011, 0b10000000])


def test_the_mean_of_chunks_is_weighted_by_tokens() -> None:
    vectors = np.array([[1, 0], [0, 1], [3, 4]], np.float32)
    means = mean_of_chunks(vectors, np.array([3, 1, 9]), np.array([2, 1]), normalize=False)
    np.testing.assert_allclose(means, [[0.75, 0.25], [3, 4]])
    means = mean_of_chunks(vectors, np.array([3, 1, 9]), np.array([2, 1]), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(means[0]), 1, rtol=1e-6)
    assert mean_of_chunks(vectors[:0], np.array([], int), np.array([], int), normalize=True).shape == (0, 2)
