"""Makes texts harm the process that touches them, by a word in the text. Ray calls `arm` in each worker.

With PACE in the environment, each split takes that many seconds more, as a larger one would. With a file
name in WITNESS, each split that is encoded adds a line to that file.
"""

import functools
import json
import os
import signal
import time
from typing import Any

import pyarrow.compute as pc

KILL, HANG, SLOW = "POISON", "QUICKSAND", "TREACLE"
SLOW_SECONDS = 2.0


def runtime(**environment: str) -> str:
    """Returns the runtime environment of a job with such words, and with these variables, as JSON."""
    return json.dumps({"worker_process_setup_hook": "tests.faults.poison.arm", "env_vars": environment})


def arm() -> None:
    """Makes the stages of this process react to the words."""
    from pipeline.embed import read
    from pipeline.embed.encode import Encode

    read.tokenized = functools.partial(_touched, read.tokenized)
    Encode.encode_split = _witnessed(Encode.encode_split)


def _touched(tokenized: Any, texts: Any, *rest: Any) -> Any:
    def has(word: str) -> bool:
        return bool(pc.any(pc.match_substring(texts, word)).as_py())

    if has(KILL):
        os.kill(os.getpid(), signal.SIGKILL)  # like a native crash or the OOM killer
    if has(HANG):
        time.sleep(10_000)
    if has(SLOW):
        _slow_micro_batches()
    return tokenized(texts, *rest)


def _witnessed(encode: Any) -> Any:
    @functools.wraps(encode)
    def told(replica: Any, split: Any) -> Any:
        if witness := os.environ.get("WITNESS"):
            with open(witness, "a") as file:  # noqa: PTH123  (one write per line, so lines do not mix)
                file.write(f"{split.split_id}\n")
        time.sleep(float(os.environ.get("PACE", "0")))
        return encode(replica, split)

    return told


def _slow_micro_batches() -> None:
    """Gives signs of life, but does not end for a while."""
    from pipeline import telemetry

    for _ in range(12):
        time.sleep(SLOW_SECONDS)
        telemetry.heartbeat()
