"""Sends Ray's own messages to a file: those of its C++ core, nodes and loggers would bury ours."""

import datetime
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pipeline import supervise, telemetry
from pipeline.telemetry import console

REASON = re.compile(r"^[\[(].*(out of memory|OOM|killed|crash|died|dead|lost)", re.I)
"""A line with a reason. It begins as lines of Ray's nodes and core do; tables of processes do not."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MAX_REASONS, MAX_CHARACTERS, TAIL_BYTES = 3, 300, 64 << 10


@contextmanager
def aside() -> Iterator[None]:
    """Sends standard output and error to Ray's file within the context; our own lines still reach people."""
    with console.redirect_fds(_file()):
        yield


def hint() -> str:
    """Names the file that a person should read when a run fails.

    The text is empty if Ray was already running: then its output is not ours to redirect.
    """
    return f"; Ray's own messages: {_file()}" if _file.cache_info().currsize else ""


def reasons() -> list[str]:
    """Returns the last of Ray's lines that look like a reason."""
    if not _file.cache_info().currsize:
        return []
    found = dict.fromkeys(line[:MAX_CHARACTERS] for line in _tail() if REASON.search(line))
    return list(found)[-MAX_REASONS:]


@cache
def _file() -> str:
    """Creates the file, one per process, and names it in the log."""
    started = datetime.datetime.now(datetime.UTC)
    descriptor, path = tempfile.mkstemp(".log", f"albert-embed-{started:%Y%m%dT%H%M%SZ}-")
    os.close(descriptor)
    telemetry.event(f"Ray's own messages: {path}")
    supervise.tell(log=path)
    return path


def _tail() -> list[str]:
    try:
        with Path(_file()).open("rb") as messages:
            messages.seek(max(0, os.fstat(messages.fileno()).st_size - TAIL_BYTES))
            text = COLOUR.sub("", messages.read().decode(errors="replace"))
    except OSError:  # a cleaner of temporary files removed it
        return []
    return text.splitlines()
