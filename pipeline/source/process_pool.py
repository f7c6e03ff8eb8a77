"""Processes beside this one that look at files, so that no file can end whoever asks.

A process that a file ends is started anew, and each file that it had is looked at alone: so the one is found,
by the signal of its process and the memory that this had. loky tells neither, and gives up all files of all
processes when one ends (docs/decisions.md).

Memory: what the formats' own readers hold is bounded. The processes have a limit besides, for native code
allocates what a file tells it to; a file that needs more on its own is a failed one.
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
"""How a native library ends its process. Any other end is not the file's: a kill for want of memory, say."""
MAX_MEMORY = 3 << 30
"""Of a process that looks at files, many of them side by side."""
MUCH_MEMORY = 1 << 30
"""What looks at one file and has so much when it is killed, was killed for want of memory."""
OUT_OF_MEMORY = 75
"""The exit code of a process that could have no more."""
STDERR = 2


class Answer(NamedTuple):
    """What a process says of a chunk: of each file, or why it gave up; and its counts since the last one."""

    found: list[Surveyed] | PipelineError
    requests: Counter[str]
    retries: Counter[str]
    read_bytes: Counter[str]


class DiedError(Exception):
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
            got = f"more than {MAX_MEMORY >> 20} MiB" if self.code == OUT_OF_MEMORY else str(self)
            return SourceError("takes too much memory to be looked at", got=got, hint=hint)
        if self.code in CRASHES:
            return SourceError("ends the process that looks at it", got=str(self), hint=hint)
        return None


class Process:
    """One that looks at files, a chunk at a time; started anew where a file has ended it."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources, self.wanted = sources, True
        self._start()

    def survey(self, chunk: Sequence[Listed]) -> list[Answer]:
        """What is in a chunk; where that ends the process, each file is looked at alone.

        Raises:
            StoppedError: it ended in a way that is none of a file's doing.
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
                    "a process that looks at the source's files was ended",
                    chunk[0][1].path,
                    str(death),
                    "give the driver more memory if it was killed for it, and run again",
                ) from None
            return [Answer([death.error], Counter(), Counter(), Counter())]

    def end(self) -> None:
        """Have none any more."""
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
def processes(count: int, sources: Mapping[str, Source]) -> Iterator[queue.SimpleQueue[Process]]:
    """So many of them, all idle."""
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
    """What such a process does: answer chunks, through this descriptor, until there is nobody who asks."""
    chunks, answers = sys.stdin.buffer, os.fdopen(answers_to, "wb")
    sources = pickle.load(chunks)
    memory.limit(MAX_MEMORY)
    while True:
        try:
            chunk = pickle.load(chunks)
        except EOFError:
            return
        try:
            found: list[Surveyed] | PipelineError = look(chunk, sources)
        except PipelineError as error:
            found = error
        except (MemoryError, RuntimeError):  # the latter: no memory for a thread
            os._exit(OUT_OF_MEMORY)  # whoever asked has each file looked at alone
        counts = telemetry.requests, telemetry.retries, telemetry.read_bytes
        pickle.dump(Answer(found, *(count.copy() for count in counts)), answers)
        answers.flush()
        for count in counts:
            count.clear()
