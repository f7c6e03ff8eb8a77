"""Runs the demo: writes the standard library's docstrings as Parquet, and runs an ordinary job on them.

`python -m jobs.demo [FOLDER]`; on a cluster the folder must be an absolute path that all its nodes share.
"""

import sys
from pathlib import Path

import pyarrow.dataset as ds

from jobs import docstrings
from pipeline.cli import main

CONFIG, FOLDER = "configs/demo.yaml", ".demo"
QUERIES = ("copy a file", "parse a date", "run something later in another thread")
NEXT = f"""
What to type next:
  python -m pipeline status {CONFIG}
  python -m pipeline search {CONFIG} "read a file line by line"
  python -c "import polars; print(polars.read_parquet('{FOLDER}/embeddings/data/*.parquet'))"
  make demo            (again: nothing is left to do, so it takes seconds)
In your shell, `source .venv/bin/activate` first."""

if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else FOLDER)
    config = str(Path(__file__).parents[1] / CONFIG)
    paths = ["--set", f"source.docstrings.path={folder}/source/*.parquet"]
    paths += ["--set", f"output.path={folder}/embeddings"]
    print(f"{docstrings.write(folder / 'source'):,} docstrings in {folder / 'source'}")
    code = main(["run", config, *paths])
    if code == 0:
        shards = ds.dataset(folder / "embeddings" / "data")
        print("\nThe schema of the shards:\n" + shards.schema.to_string(show_schema_metadata=False))
        print("\nThe first rows:\n", shards.head(3).to_pandas().to_string(max_colwidth=24), sep="")
        for query in QUERIES:
            print(f"\nNearest to {query!r}:", flush=True)
            code = code or main(["search", config, query, *paths])
        print(NEXT)
    sys.exit(code)
