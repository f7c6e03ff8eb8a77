"""Measures the peak memory of a process, for benchmarks and tests."""

import re
from pathlib import Path


def peak_mib() -> float:
    """Returns the peak MiB of this process (`VmHWM`, proc_pid_status(5)).

    `ru_maxrss` is not used: a child starts with its parent's value before `exec`.
    """
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found, "Linux reports it"
    return int(found[1]) / 1024
