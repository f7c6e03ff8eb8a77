"""Runs a whole job as a user does, in a process of its own, for benchmarks."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(values: Mapping[str, Any], config: Path) -> None:
    """Writes a config file, and runs it.

    Raises:
        CalledProcessError: the run failed.
    """
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "pipeline", "run", str(config), "--quiet"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
