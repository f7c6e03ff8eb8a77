"""What a process has used at most, for benchmarks and tests that run one to measure it."""

import re
from pathlib import Path


def peak_mib() -> float:
    """MiB of this process at its peak (`VmHWM`, proc_pid_status(5)).

    Not `ru_maxrss`: a child begins with what its parent had before `exec`.
    """
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found, "Linux tells it"
    return int(found[1]) / 1024
