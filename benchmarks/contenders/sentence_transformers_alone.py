"""sentence-transformers in one process: all texts at once, sorted by its own `encode`."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

source, output, model = sys.argv[1:]
table = pq.read_table(source)
vectors = SentenceTransformer(model, device="cpu").encode(
    table["text"].to_pylist(), batch_size=32, show_progress_bar=False
)
column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
Path(output).mkdir()
pq.write_table(pa.table({"id": table["id"], "embedding": column}), f"{output}/all.parquet")
