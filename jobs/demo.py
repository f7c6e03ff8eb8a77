"""The demo: write the standard library's docstrings as Parquet, and run the very same job as ever on them."""

import sys
from pathlib import Path

import pyarrow.dataset as ds

from jobs import docstrings
from pipeline.cli import main

CONFIG = "configs/demo.yaml"
QUERIES = ("copy a file", "parse a date", "run something later in another thread")
SOURCE, OUTPUT = Path(".demo/source"), Path(".demo/embeddings")
NEXT = f"""
What to type next:
  python -m pipeline status {CONFIG}
  python -m pipeline search {CONFIG} "read a file line by line"
  python -c "import polars; print(polars.read_parquet('{OUTPUT}/data/*.parquet'))"
  make demo            (again: nothing is left to do, so it takes seconds)
In your shell, `source .venv/bin/activate` first."""

if __name__ == "__main__":
    print(f"{docstrings.write(SOURCE):,} docstrings in {SOURCE}")
    code = main(["run", CONFIG])
    if code == 0:
        shards = ds.dataset(OUTPUT / "data")
        print("\nThe schema of the shards:\n" + shards.schema.to_string(show_schema_metadata=False))
        print("\nThe first rows:\n", shards.head(3).to_pandas().to_string(max_colwidth=24), sep="")
        for query in QUERIES:
            print(f"\nNearest to {query!r}:", flush=True)
            code = code or main(["search", CONFIG, query])
        print(NEXT)
    sys.exit(code)
