"""Daft, with its own expression for embeddings."""

import sys

import daft
from daft.functions import embed_text

source, output, model = sys.argv[1:]
rows = daft.read_parquet(f"{source}/*.parquet")
rows = rows.with_column("embedding", embed_text(rows["text"], provider="transformers", model=model))
rows.select("id", "embedding").write_parquet(output)
