"""What a process has used at most, for benchmarks and tests that run one to measure it."""

import re
from pathlib import Path


def peak_mib(process: int | str = "self") -> float:
    """MiB of a process, by its id, at its peak (`VmHWM`, proc_pid_status(5)).

    Not `ru_maxrss`: a child begins with what its parent had before `exec`.
    """
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found, "Linux tells it"
    return int(found[1]) / 1024
