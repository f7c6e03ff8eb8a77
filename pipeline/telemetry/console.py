"""What this process itself says: on its standard error, whatever libraries write to the same descriptors.

Libraries in other languages write to descriptors 1 and 2, past `sys.stderr`. While these are lent to a file
(`lent_to`), ours speak on through a copy of the real standard error. All that people read goes through here:
events of the log, the live display, the last line.
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from pipeline.sanitize import block, harmless, printable

LONGEST = 4000
"""Of a log's line."""
_lock = threading.RLock()
"""Held while a descriptor is written to or changes its meaning; never while other code of ours is called."""
_own: list[TextIO] = []
"""Where ours goes while the descriptors are lent."""
_above: list[Callable[[str], None]] = []
"""Who has the screen, and puts lines where they do not tear it."""


class _Voice(io.TextIOBase):
    """The real standard error of the moment, as a stream."""

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


stream = _Voice()


class Formatter(logging.Formatter):
    """Makes one line of a record, whatever stands in it; below it a traceback, set in."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the name is of logging)
        return printable(super().formatMessage(record), LONGEST)

    def formatException(self, ei: Any) -> str:  # noqa: N802  (the name is of logging)
        return block(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  (the name is of logging)
        return block(stack_info)


class Handler(logging.Handler):
    """Says log records. Those of `muted` loggers are left to the handlers that these have of their own."""

    def __init__(self, muted: str) -> None:
        super().__init__()
        self.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self.addFilter(lambda record: record.name.partition(".")[0] != muted)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record))
        except Exception:  # as any handler: a log that fails must not end the run
            self.handleError(record)


def say(text: str) -> None:
    """Say something on lines of its own, above a live display if there is one."""
    shown = harmless(text, "\n\t")
    if _above:
        _above[-1](shown)
    else:
        stream.write(shown + "\n")
        stream.flush()


@contextmanager
def above(put: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, what is said goes through `put`: who has the screen puts it above."""
    _above.append(put)
    try:
        yield
    finally:
        _above.remove(put)


@contextmanager
def lent_to(path: str) -> Iterator[None]:
    """While this lasts, whatever is written to the descriptors 1 and 2 is appended to a file; ours is not.

    An interruption at any moment leaves `stream` where people read it, and so the last line of a process.
    """
    kept = _lend(path)
    own = _own[-1]
    try:
        yield
    finally:
        _flush()  # what Python still holds of others belongs into the file
        with _lock:
            own.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            _own.remove(own)
            for descriptor in kept:
                os.close(descriptor)


def _lend(path: str) -> tuple[int, int]:
    """Let 1 and 2 be a file; copies of what they were."""
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
    """A stream to the real standard error; whoever replaced `sys.stderr`, as pytest does, keeps it."""
    with suppress(io.UnsupportedOperation):
        if sys.stderr.fileno() == 2:
            encoding = sys.stderr.encoding
            return open(descriptor, "w", 1, encoding, "backslashreplace", closefd=False)
    return sys.stderr


def _flush() -> None:
    for each in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            each.flush()
