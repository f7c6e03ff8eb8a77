"""Looking at every file of the sources: how each can be cut, or why it can't be.

A few small files of text are looked at here. Many, or large ones, are by processes beside this one: a
request costs a millisecond of Python, and counting the rows of what can't be cut costs much more, so one
process would leave all processors but one idle. Parquet always is by another process, for what is in a footer
can end the one that looks at it (an abort in native code): so it is a failed file like any other.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil

from pipeline import telemetry
from pipeline.config.location import protocol_of
from pipeline.config.source import Source
from pipeline.errors import PipelineError
from pipeline.source.formats import FORMATS
from pipeline.source.inspection import Listed, Surveyed, look
from pipeline.source.process_pool import Answer, processes

CHUNK = 64
FEW_FILES, FEW_BYTES = 256, 256 << 20
"""What is looked at sooner than a process has started."""
MAX_PROCESSES = 16


def survey(listed: Sequence[Listed], sources: Mapping[str, Source]) -> list[Surveyed]:
    """How each file can be cut; or, of one that can't be, the error.

    Raises:
        StorageError: storage failed.
    """
    count = _processes_for(listed, sources)
    if not count:
        return look(listed, sources)
    size = min(CHUNK, ceil(len(listed) / count))
    chunks = [listed[start : start + size] for start in range(0, len(listed), size)]
    found: list[Surveyed] = []
    # The processes end first: then no thread waits for an answer any more, whatever made us leave.
    with ThreadPoolExecutor(count) as pool, processes(count, sources) as idle:

        def ask(chunk: Sequence[Listed]) -> list[Answer]:
            process = idle.get()
            try:
                return process.survey(chunk)
            finally:
                idle.put(process)

        try:
            for answers in pool.map(ask, chunks):
                for answer in answers:
                    found += _counted(answer)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return found


def _processes_for(listed: Sequence[Listed], sources: Mapping[str, Source]) -> int:
    """By how many processes beside this one the files are looked at; 0: by this one."""
    if any(protocol_of(info.path) == "memory" for _, info in listed):
        return 0  # it is this process's alone
    if len(listed) > FEW_FILES or sum(info.size for _, info in listed) > FEW_BYTES:
        return min(len(os.sched_getaffinity(0)), len(listed), MAX_PROCESSES)
    return int(any(FORMATS[sources[name].format].isolated for name, _ in listed))


def _counted(answer: Answer) -> list[Surveyed]:
    telemetry.requests.update(answer.requests)
    telemetry.retries.update(answer.retries)
    telemetry.read_bytes.update(answer.read_bytes)
    if isinstance(answer.found, PipelineError):
        raise answer.found
    return answer.found
