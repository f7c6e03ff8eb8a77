"""Peak memory of the driver at few and at many splits: `python -m benchmarks.driver_memory [20 2000]`.

One row a split, the tiniest checkpoint: what is left is the pipeline's own cost.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import make_checkpoint

DRIVER = """
import sys
from benchmarks.memory import peak_mib
from pipeline.cli import main
code = main(["run", sys.argv[1], "--quiet"])
print("PEAK", peak_mib())
sys.exit(code)
"""


def measure(splits: int, folder: Path, checkpoint: Path) -> tuple[float, float]:
    """Peak MiB of the driver's process, and seconds, for a job of so many splits."""
    source = folder / f"{splits}.parquet"
    pq.write_table(pa.table({"text": [f"text number {i}" for i in range(splits)]}), source)
    config = folder / f"{splits}.yaml"
    output = {"path": str(folder / f"out{splits}"), "rows_per_shard": 1}
    values = {"source": {"rows": {"path": str(source)}}, "model": {"name": str(checkpoint)}, "output": output}
    config.write_text(json.dumps(values))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(config)], capture_output=True, text=True, check=True
    )
    peak = float(done.stdout.rsplit("PEAK", 1)[1])
    return peak, time.perf_counter() - started


def main(sizes: list[int]) -> None:
    """Print a table."""
    print("| splits | driver's peak MiB | seconds | ms a split above the first row's |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        checkpoint = make_checkpoint(Path(name) / "tiny")
        base_seconds = 0.0
        for splits in sizes:
            peak, seconds = measure(splits, Path(name), checkpoint)
            extra = 1000 * (seconds - base_seconds) / splits if base_seconds else 0.0
            base_seconds = base_seconds or seconds
            print(f"| {splits:,} | {peak:.0f} | {seconds:.0f} | {extra:.0f} |", flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [20, 2000])
