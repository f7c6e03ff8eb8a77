"""Checks that stored vectors come back as exactly as their kind allows."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.model.output_spec import OutputSpec
from pipeline.model.outputs.embedding import fields, load, store


def table(vectors: np.ndarray, kind: str) -> pa.Table:
    spec = OutputSpec(vector=kind, dimension=vectors.shape[1])
    return pa.Table.from_arrays(store(vectors, spec), schema=pa.schema(fields(spec)))


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
