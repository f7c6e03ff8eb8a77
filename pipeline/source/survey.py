"""Surveys all files of the sources: finds how each can be cut, or why it can't be.

This process surveys a few small files of text. Other processes survey many or large ones: a request costs a
millisecond of Python, and counting the rows of a file that can't be cut costs much more, so one process would
leave all processors but one idle. Parquet files are always surveyed in another process: a corrupt footer can
abort native code. The file is then reported as failed.
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
"""The most files, and the most bytes, that are surveyed faster than a process starts."""
MAX_PROCESSES = 16


def survey(listed: Sequence[Listed], sources: Mapping[str, Source]) -> list[Surveyed]:
    """Returns for each file how it can be cut, or the error if it can't be.

    Raises:
        StorageError: storage failed.
    """
    count = _processes_for(listed, sources)
    if not count:
        return look(listed, sources)
    size = min(CHUNK, ceil(len(listed) / count))
    chunks = [listed[start : start + size] for start in range(0, len(listed), size)]
    found: list[Surveyed] = []
    # The processes end first: then no thread waits for an answer any more, even after an error.
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
    """Returns how many other processes survey the files; 0 means that this process does it."""
    if any(protocol_of(info.path) == "memory" for _, info in listed):
        return 0  # only this process has its memory
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
