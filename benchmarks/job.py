"""A job as a user runs it, for benchmarks of all of it: a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(values: Mapping[str, Any], config: Path) -> None:
    """Write a config there, and run it.

    Raises:
        CalledProcessError: the run did not end well.
    """
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "pipeline", "run", str(config), "--quiet"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
