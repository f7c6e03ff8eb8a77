"""Measures the recall that is lost by storing vectors as int8 or as bits.

    python -m benchmarks.quantization [DATASET, default: the demo's]

It takes the nearest 10 of each of 500 rows among all others, by the float32 vectors. It counts how many of
them are among the nearest 10 by quantized vectors (int8 by cosine, bits by Hamming distance; queries
quantized too), and how many are among the nearest 100, which float32 could rank again.
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import vectors
from pipeline.model.output_spec import OutputSpec
from pipeline.model.outputs import embedding

QUERIES, NEAREST, CANDIDATES = 500, 10, 100
Floats = npt.NDArray[np.float32]


def stored(vectors_ND: Floats, kind: str) -> Floats:
    """Returns vectors as a reader of the shards gets them, of length 1."""
    spec = OutputSpec(vector=kind, dimension=vectors_ND.shape[1])
    table = pa.Table.from_arrays(embedding.store(vectors_ND, spec), schema=pa.schema(embedding.fields(spec)))
    return vectors.unit(embedding.load(table, vectors_ND.shape[1]))


def nearest(vectors_ND: Floats, queries: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Returns the (queries, count) nearest rows by cosine, without the query itself."""
    cosine_QN = vectors_ND[queries] @ vectors_ND.T
    cosine_QN[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-cosine_QN, axis=1, kind="stable")[:, :count]


def main(root: Path) -> None:
    """Prints one table."""
    shards = pq.read_table(root / "data", columns=["embedding"])
    dimension = shards.schema.field("embedding").type.list_size
    vectors_ND = embedding.load(shards, dimension)
    queries = np.random.default_rng(0).choice(len(vectors_ND), QUERIES, replace=False)
    wanted = nearest(vectors_ND, queries, NEAREST)
    print(f"{len(vectors_ND):,} rows of {dimension} dimensions\n")
    print("| vector | bytes | recall of 10 in 10 | recall of 10 in 100 |\n|---|---|---|---|")
    for kind, size in (("float32", 4 * dimension), ("int8", dimension + 4), ("binary", -(-dimension // 8))):
        found = nearest(stored(vectors_ND, kind), queries, CANDIDATES)
        recalls = [
            np.mean(
                [len(np.intersect1d(*pair)) / NEAREST for pair in zip(wanted, found[:, :count], strict=True)]
            )
            for count in (NEAREST, CANDIDATES)
        ]
        print(f"| `{kind}` | {size:,} | {recalls[0]:.3f} | {recalls[1]:.3f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo/embeddings"))
