"""What a text does to the process that touches it, by a word in it. Ray calls `arm` in each worker.

Each split takes as many seconds more as the environment's PACE says, as a larger one would; where
it names a file as WITNESS, each one that is encoded is a line in it.
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
    """The runtime environment of a job that has the words, as JSON; with these variables."""
    return json.dumps({"worker_process_setup_hook": "tests.faults.poison.arm", "env_vars": environment})


def arm() -> None:
    """Make the stages of this process sensitive to the words."""
    from pipeline.embed import read
    from pipeline.embed.encode import Encode

    read.tokenized = functools.partial(_touched, read.tokenized)
    Encode.encode_split = _witnessed(Encode.encode_split)


def _touched(tokenized: Any, texts: Any, *rest: Any) -> Any:
    def has(word: str) -> bool:
        return bool(pc.any(pc.match_substring(texts, word)).as_py())

    if has(KILL):
        os.kill(os.getpid(), signal.SIGKILL)  # as a native crash or the OOM killer would
    if has(HANG):
        time.sleep(10_000)
    if has(SLOW):
        _slow_micro_batches()
    return tokenized(texts, *rest)


def _witnessed(encode: Any) -> Any:
    @functools.wraps(encode)
    def told(replica: Any, split: Any) -> Any:
        if witness := os.environ.get("WITNESS"):
            with open(witness, "a") as file:  # noqa: PTH123  (one write of a line: processes do not mix theirs)
                file.write(f"{split.split_id}\n")
        time.sleep(float(os.environ.get("PACE", "0")))
        return encode(replica, split)

    return told


def _slow_micro_batches() -> None:
    """Signs of life, but no end for a while."""
    from pipeline import telemetry

    for _ in range(12):
        time.sleep(SLOW_SECONDS)
        telemetry.beat()
