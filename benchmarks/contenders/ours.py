"""This project."""

import json
import sys
from pathlib import Path

from pipeline.cli import main

source, output, model = sys.argv[1:]
config = Path(f"{output}.json")
config.write_text(
    json.dumps(
        {
            "source": {"rows": {"path": f"{source}/*.parquet", "id_column": "id"}},
            "model": {"name": model},
            "output": {"path": output},
        }
    )
)
sys.exit(main(["run", str(config), "--quiet"]))
