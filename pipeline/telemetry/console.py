"""Writes this process's own output to standard error, apart from what libraries write to the descriptors.

Libraries in other languages write to descriptors 1 and 2, past `sys.stderr`. While these descriptors are lent
to a file (`redirect_fds`), our own output goes to a copy of the real standard error. Everything that people
read passes through here: events of the log, the live display, the last line.
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from pipeline.sanitize import block, printable, strip_control

LONGEST = 4000
"""Characters of a line of the log."""
_lock = threading.RLock()
"""Held while a descriptor is written to or redirected; never while other code of ours is called."""
_own: list[TextIO] = []
"""The streams for our own output while the descriptors are lent."""
_above: list[Callable[[str], None]] = []
"""Functions of live displays that put lines above the display."""


class _Console(io.TextIOBase):
    """The current real standard error, as a stream."""

    def write(self, text: str) -> int:
        with _lock:
            return _real().write(text)

    def flush(self) -> None:
        with _lock:
            _real().flush()

    def fileno(self) -> int:
        return _real().fileno()

    def isatty(self) -> bool:
        return _real().isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return _real().encoding


stream = _Console()


class Formatter(logging.Formatter):
    """Makes one line of a record, whatever it contains; below the line, an indented traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging gives the name)
        return printable(super().formatMessage(record), LONGEST)

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging gives the name)
        return block(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  (logging gives the name)
        return block(stack_info)


class Handler(logging.Handler):
    """Prints log records. Records of `muted` loggers are left to those loggers' own handlers."""

    def __init__(self, muted: str) -> None:
        super().__init__()
        self.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self.addFilter(lambda record: record.name.partition(".")[0] != muted)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print_line(self.format(record))
        except Exception:  # as in any handler: a failing log must not end the run
            self.handleError(record)


def print_line(text: str) -> None:
    """Prints text on lines of its own, above a live display if there is one."""
    shown = strip_control(text, "\n\t")
    if _above:
        _above[-1](shown)
    else:
        stream.write(shown + "\n")
        stream.flush()


@contextmanager
def route_through(put: Callable[[str], None]) -> Iterator[None]:
    """Sends printed text through `put` while the context lasts, so that a live display can put it above."""
    _above.append(put)
    try:
        yield
    finally:
        _above.remove(put)


@contextmanager
def redirect_fds(path: str) -> Iterator[None]:
    """Appends what is written to descriptors 1 and 2 to a file, except our own output.

    After an interruption at any moment, `stream` still reaches people, and so does a process's last line.
    """
    kept = _lend(path)
    own = _own[-1]
    try:
        yield
    finally:
        _flush()  # what Python still buffers of others' output belongs in the file
        with _lock:
            own.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            _own.remove(own)
            for descriptor in kept:
                os.close(descriptor)


def _lend(path: str) -> tuple[int, int]:
    """Redirects descriptors 1 and 2 to a file; returns copies of what they were."""
    _flush()
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    with _lock:
        kept = os.dup(1), os.dup(2)
        _own.append(_own[-1] if _own else _own_stream(kept[1]))
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    return kept


def _real() -> TextIO:
    return _own[-1] if _own else sys.stderr


def _own_stream(descriptor: int) -> TextIO:
    """Returns a stream to the real standard error; a replaced `sys.stderr`, as under pytest, stays in use."""
    with suppress(io.UnsupportedOperation):
        if sys.stderr.fileno() == 2:
            encoding = sys.stderr.encoding
            return open(descriptor, "w", 1, encoding, "backslashreplace", closefd=False)
    return sys.stderr


def _flush() -> None:
    for each in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            each.flush()
