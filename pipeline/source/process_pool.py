"""Surveys files in other processes, so that no file can end this one.

If a file ends its process, the process is started again and surveys each of its files alone. The signal and
the memory of the process then tell which file it was. loky reports neither, and gives up all files of all
processes when one ends (docs/decisions.md).

Memory: the readers of the formats bound what they hold. The processes also have a limit, because native code
allocates as much as a file says. A file that alone needs more is a failed file.
"""

import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pipeline import telemetry
from pipeline.config.source import Source
from pipeline.errors import PipelineError, SourceError, StoppedError
from pipeline.source.formats import memory
from pipeline.source.inspection import Listed, Surveyed, look

CRASHES = [-each for each in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)]
"""The exit codes of a process that a native library ended. Another code is not the file's fault: it may be a
kill by a system that is short of memory."""
MAX_MEMORY = 3 << 30
"""The most bytes of memory for a process that surveys many files in parallel."""
MUCH_MEMORY = 1 << 30
"""A process that surveys one file and is killed with more memory than this was killed for its memory."""
OUT_OF_MEMORY = 75
"""The exit code of a process that got no more memory."""
STDERR = 2


class Answer(NamedTuple):
    """The result of a chunk: one of each file, or why the process gave up; and its counts since the last."""

    found: list[Surveyed] | PipelineError
    requests: Counter[str]
    retries: Counter[str]
    read_bytes: Counter[str]


class DiedError(Exception):
    """A process ended before it answered. The code is below zero if a signal ended it.

    Args:
        memory: the most bytes of memory that the process had.
    """

    def __init__(self, code: int, memory: int) -> None:
        self.code = code
        self.for_memory = code == OUT_OF_MEMORY or (code == -signal.SIGKILL and memory > MUCH_MEMORY)
        super().__init__(f"signal {-code}" if code < 0 else f"exit code {code}")

    @property
    def error(self) -> SourceError | None:
        """The error of the only file that the process surveyed; None if it ended for another reason."""
        hint = "make it again, or leave it out"
        if self.for_memory:
            got = f"more than {MAX_MEMORY >> 20} MiB" if self.code == OUT_OF_MEMORY else str(self)
            return SourceError("needs too much memory to be inspected", got=got, hint=hint)
        if self.code in CRASHES:
            return SourceError("crashes the process that inspects it", got=str(self), hint=hint)
        return None


class Process:
    """A process that surveys files, a chunk at a time. It is started again if a file ends it."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources, self.wanted = sources, True
        self._start()

    def survey(self, chunk: Sequence[Listed]) -> list[Answer]:
        """Surveys a chunk. If it ends the process, surveys each of its files alone.

        Raises:
            StoppedError: the process ended, but not by the fault of a file.
        """
        try:
            return [self._answer(chunk)]
        except DiedError as death:
            self.answers.close()
            self._start()
            if len(chunk) > 1:
                return [answer for each in chunk for answer in self.survey([each])]
            if death.error is None:
                raise StoppedError(
                    "a process that inspects the source's files was ended",
                    chunk[0][1].path,
                    str(death),
                    "give the driver more memory if it ran out of it, and run again",
                ) from None
            return [Answer([death.error], Counter(), Counter(), Counter())]

    def end(self) -> None:
        """Ends the process for good."""
        self.wanted = False
        self.process.kill()
        self.process.wait()

    def _answer(self, chunk: Sequence[Listed]) -> Answer:
        assert self.process.stdin
        try:
            pickle.dump(chunk, self.process.stdin)
            self.process.stdin.flush()
            answer: Answer = pickle.load(self.answers)
        except (OSError, EOFError, pickle.UnpicklingError):
            code, most = self._ended()
            if not self.wanted:
                raise
            raise DiedError(code, most) from None
        return answer

    def _ended(self) -> tuple[int, int]:
        """Returns the exit code of the process, and the most bytes of memory that it had."""
        try:
            _, status, used = os.wait4(self.process.pid, 0)
        except ChildProcessError:  # `end` has waited for it
            return self.process.wait(), 0
        self.process.returncode = os.waitstatus_to_exitcode(status)
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # a child starts with it, before `exec`
        return self.process.returncode, 1024 * used.ru_maxrss if used.ru_maxrss > ours else 0

    def _start(self) -> None:
        """Starts the process. It imports the same modules as this one, whatever the working directory is."""
        read_end, write_end = os.pipe()
        begin = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as this; this.main({write_end})"
        self.answers = os.fdopen(read_end, "rb")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", begin],
                stdin=subprocess.PIPE,
                stdout=STDERR,  # the prints of a library are not an answer, nor output of the driver
                pass_fds=[write_end],
                start_new_session=True,  # Ctrl-C goes to the driver, which ends this process
            )
        finally:
            os.close(write_end)
        if not self.wanted:  # `end` was called meanwhile
            self.end()
        assert self.process.stdin
        pickle.dump(self.sources, self.process.stdin)


@contextmanager
def processes(count: int, sources: Mapping[str, Source]) -> Iterator[queue.SimpleQueue[Process]]:
    """Starts `count` processes, all idle, and ends them at the end."""
    started: list[Process] = []
    idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
    try:
        for _ in range(count):
            started.append(Process(sources))
            idle.put(started[-1])
        yield idle
    finally:
        for process in started:
            process.end()


def main(answers_to: int) -> None:
    """Runs in the process: reads chunks and answers them through a descriptor until the driver is gone."""
    chunks, answers = sys.stdin.buffer, os.fdopen(answers_to, "wb")
    with _until_the_driver_is_gone():
        sources = pickle.load(chunks)
    memory.limit(MAX_MEMORY)
    while True:
        with _until_the_driver_is_gone():
            chunk = pickle.load(chunks)
        try:
            found: list[Surveyed] | PipelineError = look(chunk, sources)
        except PipelineError as error:
            found = error
        except (MemoryError, RuntimeError):  # the latter: no memory for a thread
            os._exit(OUT_OF_MEMORY)  # the parent then has each file surveyed alone
        counts = telemetry.requests, telemetry.retries, telemetry.read_bytes
        with _until_the_driver_is_gone():
            pickle.dump(Answer(found, *(count.copy() for count in counts)), answers)
            answers.flush()
        for count in counts:
            count.clear()


@contextmanager
def _until_the_driver_is_gone() -> Iterator[None]:
    """Ends this process without a word if the driver has ended, maybe in the midst of a chunk."""
    try:
        yield
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):
        os._exit(0)
