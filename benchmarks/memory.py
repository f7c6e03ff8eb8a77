"""Measures the peak memory of a process, for benchmarks and tests."""

import re
from pathlib import Path


def peak_mib(process: int | str = "self") -> float:
    """Returns the peak MiB of a process, by its id (`VmHWM`, proc_pid_status(5)).

    `ru_maxrss` is not used: a child starts with its parent's value before `exec`.
    """
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found, "Linux reports it"
    return int(found[1]) / 1024
