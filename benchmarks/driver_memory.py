"""Measures the driver's memory and CPU by splits: `python -m benchmarks.driver_memory [20 2000]`.

With one row per split and the smallest checkpoint, only the pipeline's own cost is left. Everything,
including Ray's daemons and workers, shares this machine's processors; the driver's CPU seconds are those of
its process.
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
import sys, time
from benchmarks.memory import peak_mib
from pipeline.cli import main
code = main(["run", sys.argv[1], "--quiet"])
print("MEASURED", peak_mib(), time.process_time())
sys.exit(code)
"""


def measure(splits: int, folder: Path, checkpoint: Path) -> tuple[float, float, float]:
    """Returns peak MiB and CPU seconds of the driver's process, and seconds, for a job of `splits` splits."""
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
    peak, cpu = map(float, done.stdout.rsplit("MEASURED", 1)[1].split())
    return peak, cpu, time.perf_counter() - started


def main(sizes: list[int]) -> None:
    """Prints a table."""
    print(
        "| splits | driver's peak MiB | its CPU seconds | seconds | ms per split, without the start |\n"
        "|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        checkpoint = make_checkpoint(Path(name) / "tiny")
        *_, start = measure(1, Path(name), checkpoint)
        for splits in sizes:
            peak, cpu, seconds = measure(splits, Path(name), checkpoint)
            each = 1000 * (seconds - start) / splits
            print(f"| {splits:,} | {peak:.0f} | {cpu:.0f} | {seconds:.0f} | {each:.0f} |", flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [20, 2000])
