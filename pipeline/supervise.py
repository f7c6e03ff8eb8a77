"""Runs a command in a child process, so that whatever ends it, the log's last line says why.

The child does the work. Through a pipe it tells how it ended, and which of Ray's processes it does not
outlive. The parent waits and passes on requests to stop. If the child ended without a last line (killed for
lack of memory; ended by Ray's C++ core, because a process of Ray's died), the parent prints one, with exit
code 4. It also leaves that line where Kubernetes looks for it, and ends what a dead child left behind.

Cost: a fork before anything heavy is loaded, so a millisecond, and some 10 MB that the child shares.
"""

import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import LONGEST, STOPPED, ExitCode
from pipeline.sanitize import printable

STOP = signal.SIGUSR1
"""What the parent sends to stop the child, which heeds the first request alone: terminals and schedulers may
signal the whole group, and so the child, too."""
PASSED_ON = {signal.SIGTERM: STOP, signal.SIGINT: STOP, signal.SIGHUP: STOP, signal.SIGQUIT: signal.SIGQUIT}
"""The signals that the parent passes on, and as which."""
AGAIN_SECONDS = 1.0
"""A request to stop that comes later than this after the first one kills the child. `timeout` sends two."""
LEFT_SECONDS = 1.0
"""Seconds for what a child left behind to end by itself: Ray's workers look for their raylet every second."""
TERMINATION = "EMBED_TERMINATION_LOG", "/dev/termination-log"
"""The variable that names the file for the last line, and Kubernetes' own file (`terminationMessagePath`)."""
TERMINATION_BYTES = 4096
"""What Kubernetes keeps of that file."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
RESTORE = "\x1b[?25h\r\n"
"""Shows the cursor, which a live display hides, and leaves its last line."""

_to_parent: int | None = None
"""The child's end of the pipe."""
_stopping = False


def supervised(command: Callable[[], int]) -> int:
    """Runs a command in a child process; returns its exit code, in both processes.

    Args:
        command: prints its own last line, and tells it to the parent by `tell(code=..., reason=...)`.
    """
    from_child, to_parent = os.pipe()
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until both can handle them
    if child := os.fork():
        os.close(to_parent)
        return _Parent(child, from_child).wait()
    os.close(from_child)
    return _child(command, to_parent, parent)


def tell(**facts: Any) -> None:
    """Tells the parent, if there is one.

    Args:
        facts: `code` and `reason` of the last line, once it is printed; `needs`, the names and pids of
            further processes that the child does not outlive, or None if it does from now on; `log`, a file
            in which people find more.
    """
    if _to_parent is not None:
        with suppress(OSError):  # the parent was killed
            os.write(_to_parent, json.dumps(facts).encode() + b"\n")


def _child(command: Callable[[], int], to_parent: int, parent: int) -> int:
    global _to_parent  # noqa: PLW0603  (a process has one parent)
    _to_parent = to_parent
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return int(ExitCode.RETRYABLE)
    for number in {*PASSED_ON, STOP} - {signal.SIGQUIT}:
        if _heeded(number):
            signal.signal(number, _stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        return command()
    except BaseException as error:
        if _stopping:  # before the command could heed it
            _say(_line(ExitCode.RETRYABLE, STOPPED))
        tell(code=error.code if isinstance(error, SystemExit) else int(ExitCode.BUG))
        raise


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Ends the command, at the first request alone. No library's `except Exception` catches this."""
    global _stopping  # noqa: PLW0603  (as above)
    if not _stopping:
        _stopping = True
        raise SystemExit(int(ExitCode.RETRYABLE))


@dataclass
class _Parent:
    """The process that waits.

    told: what the child told, by name.  died: processes that the child needs, in the order of their deaths.
    stopped: when the first request to stop came.
    """

    child: int
    from_child: int
    told: dict[str, Any] = field(default_factory=dict)
    died: list[str] = field(default_factory=list)
    stopped: float | None = None
    status: int | None = None
    _unread: bytes = b""
    _needs: dict[int, str] = field(default_factory=dict)
    _poll: Any = field(default_factory=select.poll)

    def wait(self) -> int:
        """Waits for the child's end, and returns the exit code."""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        before = _oom_kills()
        signals, wakes = os.pipe()
        for end in (signals, wakes, self.from_child):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in filter(_heeded, (signal.SIGCHLD, *PASSED_ON)):
            signal.signal(number, lambda *_: None)  # it wakes the poll
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        for end in (signals, self.from_child):
            self._poll.register(end, select.POLLIN)
        while self._reap() and self.status is None:
            self._listen(signals)
        self._hear()
        code, line = self._ending(memory=_oom_kills() > before)
        _leave_message(line)
        self._clear()
        return code

    def _listen(self, signals: int) -> None:
        """Waits for something to happen, and notes it."""
        for end, _ in self._poll.poll():
            if end == signals:
                for number in os.read(signals, 1 << 10):
                    self._pass_on(number)
            elif end == self.from_child:
                self._hear()
            elif end in self._needs:
                self.died.append(self._needs.pop(end))
                self._poll.unregister(end)
                os.close(end)

    def _hear(self) -> None:
        """Reads what the child told."""
        with suppress(BlockingIOError):
            while part := os.read(self.from_child, 1 << 16):
                self._unread += part
            with suppress(KeyError):
                self._poll.unregister(self.from_child)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            facts = json.loads(line)
            self.told |= facts
            if "needs" in facts:
                self._watch(facts["needs"])

    def _watch(self, needs: Iterable[tuple[str, int]] | None) -> None:
        """Waits for the deaths of these processes, too; of none any more if there is no list."""
        if needs is None:
            for end in self._needs:
                self._poll.unregister(end)
                os.close(end)
            self._needs.clear()
            self.died.clear()
        for name, pid in needs or ():
            with suppress(OSError):  # it has ended, or the kernel is older than 5.3
                end = os.pidfd_open(pid)
                self._needs[end] = name
                self._poll.register(end, select.POLLIN)

    def _pass_on(self, number: int) -> None:
        """Passes a signal on to the child; a second request to stop kills it."""
        sent = PASSED_ON.get(signal.Signals(number))
        if sent is None:
            return
        now = time.monotonic()
        if self.stopped is not None and now - self.stopped > AGAIN_SECONDS:
            sent = signal.SIGKILL
        self.stopped = now if self.stopped is None else self.stopped
        os.kill(self.child, sent)

    def _reap(self) -> bool:
        """Collects the processes that have ended, orphans of the child among them; tells if any is left."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self.child:
                    self.status = status
        return False

    def _ending(self, memory: bool) -> tuple[int, str]:
        """Returns the exit code and the last line, which is printed unless the child has done so."""
        if "code" in self.told:
            code = int(self.told["code"] or 0)
            return code, _line(code, self.told.get("reason") or ("see the log" if code else "done"))
        line = _line(ExitCode.RETRYABLE, self._finding(memory))
        _say(line)
        return int(ExitCode.RETRYABLE), line

    def _finding(self, memory: bool) -> str:
        """Returns why the child ended without a last line."""
        code = os.waitstatus_to_exitcode(self.status or 0)
        again = "run again to resume"
        if log := self.told.get("log"):
            again += f"; Ray's own messages: {log}"
        if self.stopped is not None:
            return f"killed by the second request to stop; {again}" if code == -signal.SIGKILL else STOPPED
        if code == -signal.SIGKILL:
            why = "memory ran out" if memory else "memory ran out, or somebody did it"
            return f"the driver was killed (SIGKILL: {why}); {again}"
        if code < 0:
            return f"the driver was ended by {signal.Signals(-code).name}; {again}"
        if self.died:  # others died after the first, and because of it
            return f"Ray's {self.died[0]} died, and the driver with it; {again}"
        return f"a library ended the driver with exit code {code}; {again}"

    def _clear(self) -> None:
        """Ends the processes that the child left behind, which are the parent's now."""
        until = time.monotonic() + LEFT_SECONDS
        while self._reap():
            if time.monotonic() > until:
                for pid in _children():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _line(code: int, reason: str) -> str:
    return f"exit {int(code)}: {printable(reason, LONGEST)}"


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads standard error any more
        os.write(2, f"{RESTORE if os.isatty(2) else ''}{line}\n".encode())


def _leave_message(line: str, environment: Mapping[str, str] = os.environ) -> None:
    """Leaves the last line as the pod's termination message."""
    name, default = TERMINATION
    path = Path(environment.get(name, default if Path(default).exists() else ""))
    with suppress(OSError):  # it must not change how the command ends
        if path.name:
            path.write_bytes(line.encode()[:TERMINATION_BYTES])


def _heeded(number: int) -> bool:
    """Tells whether a signal is not ignored, as it is under `nohup`."""
    return signal.getsignal(number) is not signal.SIG_IGN


def _children() -> Iterator[int]:
    ours = os.getpid()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == ours:
                yield int(path.parent.name)


def _oom_kills() -> int:
    """Returns how many processes the kernel has killed for lack of memory, here and beside us."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _prctl(option: int, value: int) -> None:
    with suppress(AttributeError):  # on macOS, where a killed parent leaves its child behind
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
