"""Looking at every file of the sources: how each can be cut, or why it can't be.

A few small files of text are looked at here. Many, or large ones, are by processes beside this one: a
request costs a millisecond of Python, and counting the rows of what can't be cut costs much more, so one
process would leave all processors but one idle. Parquet always is by another process, for what is in a footer
can end the one that looks at it (an abort in native code): so it is a failed file like any other.

Memory: what the formats' own readers hold is bounded. The other processes have a limit besides, for native
code allocates what a file tells it to; a file that needs more on its own is a failed one.
"""

import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import ceil
from typing import NamedTuple

from pipeline import storage, telemetry
from pipeline.config.location import protocol_of
from pipeline.config.source import Source
from pipeline.errors import (
    CredentialsError,
    DeniedError,
    MissingError,
    PipelineError,
    SourceError,
    StoppedError,
    StorageError,
)
from pipeline.source import formats
from pipeline.source.formats import Survey, file_name, memory

Listed = tuple[str, storage.ObjectInfo]
"""An object, and the name of the source that it is of."""
Surveyed = Survey | SourceError
THREADS = 32
"""Files that a process looks at side by side: it waits for storage more than it works."""
CHUNK = 64
FEW_FILES, FEW_BYTES = 256, 256 << 20
"""What is looked at sooner than a process has started."""
MOST_PROCESSES = 16
CRASHES = [-each for each in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)]
"""How a native library ends its process. Any other end is not the file's: a kill for want of memory, say."""
MOST_MEMORY = 3 << 30
"""Of a process that looks at files, many of them side by side."""
MUCH_MEMORY = 1 << 30
"""What looks at one file and has so much when it is killed, was killed for want of memory."""
OUT_OF_MEMORY = 75
"""The exit code of a process that could have no more."""
STDERR = 2
PAUSES = (0.2, 1.0, 3.0)
"""Seconds before a file that is not given is asked for again."""


class _Answer(NamedTuple):
    """What a process says of a chunk: of each file, or why it gave up; and its counts since the last one."""

    found: list[Surveyed] | PipelineError
    requests: Counter[str]
    retries: Counter[str]
    read_bytes: Counter[str]


class _DiedError(Exception):
    """The process ended instead of an answer, with this code: of a signal, below zero.

    Args:
        memory: the most bytes that it had.
    """

    def __init__(self, code: int, memory: int) -> None:
        self.code = code
        self.for_memory = code == OUT_OF_MEMORY or (code == -signal.SIGKILL and memory > MUCH_MEMORY)
        super().__init__(f"signal {-code}" if code < 0 else f"exit code {code}")

    @property
    def error(self) -> SourceError | None:
        """What is wrong with the only file that it looked at; None where it ended for another reason."""
        hint = "make it anew, or leave it out"
        if self.for_memory:
            got = f"more than {MOST_MEMORY >> 20} MiB" if self.code == OUT_OF_MEMORY else str(self)
            return SourceError("takes too much memory to be looked at", got=got, hint=hint)
        if self.code in CRASHES:
            return SourceError("ends the process that looks at it", got=str(self), hint=hint)
        return None


def survey(listed: Sequence[Listed], sources: Mapping[str, Source]) -> list[Surveyed]:
    """How each file can be cut; or, of one that can't be, the error.

    Raises:
        StorageError: storage failed.
    """
    count = _processes_for(listed, sources)
    if not count:
        return _look(listed, sources)
    size = min(CHUNK, ceil(len(listed) / count))
    chunks = [listed[start : start + size] for start in range(0, len(listed), size)]
    found: list[Surveyed] = []
    # The processes end first: then no thread waits for an answer any more, whatever made us leave.
    with ThreadPoolExecutor(count) as pool, _processes(count, sources) as idle:

        def ask(chunk: Sequence[Listed]) -> list[_Answer]:
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
        return min(len(os.sched_getaffinity(0)), len(listed), MOST_PROCESSES)
    return int(any(formats.FORMATS[sources[name].format].isolated for name, _ in listed))


def _look(listed: Sequence[Listed], sources: Mapping[str, Source]) -> list[Surveyed]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda entry: _survey(entry[1], sources[entry[0]]), listed))


def _survey(info: storage.ObjectInfo, source: Source) -> Surveyed:
    """How a file can be cut; one that is refused, or not there, is asked for again.

    Raises:
        StorageError: it stays so. That may pass all the same, and what a plan says of a file is for good.
    """
    for pause in PAUSES:
        try:
            return _look_at(info, source)
        except CredentialsError:
            raise  # of all files, and no pause mends them
        except (MissingError, DeniedError):
            time.sleep(pause)
    try:
        return _look_at(info, source)
    except MissingError as error:
        hint = "run again: it is listed anew"
        raise StorageError("is gone since it was listed", info.path, error.got, hint) from error
    except DeniedError as error:
        if isinstance(error, CredentialsError):
            raise
        hint = "run again, if that may pass; else check its rights, or leave it out of the source's path"
        raise StorageError("is listed, but may not be read", info.path, error.got, hint) from error


def _look_at(info: storage.ObjectInfo, source: Source) -> Surveyed:
    try:
        info.path.encode()
        return formats.survey(info, file_name(source, info), source)
    except UnicodeEncodeError:
        return SourceError("its name is not UTF-8", hint="rename it")
    except SourceError as error:
        return error
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # libraries raise what they like of a damaged file
        return SourceError("can't be read", got=repr(error), hint="make it anew, or leave it out")


def _counted(answer: _Answer) -> list[Surveyed]:
    telemetry.requests.update(answer.requests)
    telemetry.retries.update(answer.retries)
    telemetry.read_bytes.update(answer.read_bytes)
    if isinstance(answer.found, PipelineError):
        raise answer.found
    return answer.found


class _Process:
    """One that looks at files, a chunk at a time; started anew where a file has ended it."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources, self.wanted = sources, True
        self._start()

    def survey(self, chunk: Sequence[Listed]) -> list[_Answer]:
        """What is in a chunk; where that ends the process, each file is looked at alone.

        Raises:
            StoppedError: it ended in a way that is none of a file's doing.
        """
        try:
            return [self._answer(chunk)]
        except _DiedError as death:
            self.answers.close()
            self._start()
            if len(chunk) > 1:
                return [answer for each in chunk for answer in self.survey([each])]
            if death.error is None:
                raise StoppedError(
                    "a process that looks at the source's files was ended",
                    chunk[0][1].path,
                    str(death),
                    "give the driver more memory if it was killed for it, and run again",
                ) from None
            return [_Answer([death.error], Counter(), Counter(), Counter())]

    def end(self) -> None:
        """Have none any more."""
        self.wanted = False
        self.process.kill()
        self.process.wait()

    def _answer(self, chunk: Sequence[Listed]) -> _Answer:
        assert self.process.stdin
        try:
            pickle.dump(chunk, self.process.stdin)
            self.process.stdin.flush()
            answer: _Answer = pickle.load(self.answers)
        except (OSError, EOFError, pickle.UnpicklingError):
            code, most = self._ended()
            if not self.wanted:
                raise
            raise _DiedError(code, most) from None
        return answer

    def _ended(self) -> tuple[int, int]:
        """The code that the process ended with, and the most bytes of memory that it had."""
        try:
            _, status, used = os.wait4(self.process.pid, 0)
        except ChildProcessError:  # `end` has seen it
            return self.process.wait(), 0
        self.process.returncode = os.waitstatus_to_exitcode(status)
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # what it begins with, before `exec`
        return self.process.returncode, 1024 * used.ru_maxrss if used.ru_maxrss > ours else 0

    def _start(self) -> None:
        """Start the process; it imports what this one would, whatever lies in the working directory."""
        read_end, write_end = os.pipe()
        begin = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as this; this.main({write_end})"
        self.answers = os.fdopen(read_end, "rb")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", begin],
                stdin=subprocess.PIPE,
                stdout=STDERR,  # what a library prints is no answer, and none of the driver's output
                pass_fds=[write_end],
                start_new_session=True,  # Ctrl-C is for the driver, which ends this one
            )
        finally:
            os.close(write_end)
        if not self.wanted:  # by now
            self.end()
        assert self.process.stdin
        pickle.dump(self.sources, self.process.stdin)


@contextmanager
def _processes(count: int, sources: Mapping[str, Source]) -> Iterator["queue.SimpleQueue[_Process]"]:
    """So many of them, all idle."""
    processes: list[_Process] = []
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    try:
        for _ in range(count):
            processes.append(_Process(sources))
            idle.put(processes[-1])
        yield idle
    finally:
        for process in processes:
            process.end()


def main(answers_to: int) -> None:
    """What such a process does: answer chunks, through this descriptor, until there is nobody who asks."""
    chunks, answers = sys.stdin.buffer, os.fdopen(answers_to, "wb")
    sources = pickle.load(chunks)
    memory.limit(MOST_MEMORY)
    while True:
        try:
            chunk = pickle.load(chunks)
        except EOFError:
            return
        try:
            found: list[Surveyed] | PipelineError = _look(chunk, sources)
        except PipelineError as error:
            found = error
        except (MemoryError, RuntimeError):  # the latter: no memory for a thread
            os._exit(OUT_OF_MEMORY)  # whoever asked has each file looked at alone
        counts = telemetry.requests, telemetry.retries, telemetry.read_bytes
        pickle.dump(_Answer(found, *(count.copy() for count in counts)), answers)
        answers.flush()
        for count in counts:
            count.clear()
