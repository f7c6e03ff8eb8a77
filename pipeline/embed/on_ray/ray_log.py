"""Ray's own messages go to a file: its C++ core, its nodes' faults and its loggers would bury ours."""

import datetime
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pipeline import telemetry
from pipeline.telemetry import console

REASON = re.compile(r"^[\[(].*(out of memory|OOM|killed|crash|died|dead|lost)", re.I)
"""Begins as lines of Ray's nodes and core do: tables of processes and their arguments do not."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MAX_REASONS, MAX_CHARACTERS, TAIL_BYTES = 3, 300, 64 << 10


@contextmanager
def aside() -> Iterator[None]:
    """While this lasts, standard output and error are Ray's file's; what we say goes on to people."""
    with console.redirect_fds(_file()):
        yield


def hint() -> str:
    """Where to look when a run fails.

    Nothing where Ray was there before us: then its messages go where whoever started it let them go.
    """
    return f"; Ray's own messages: {_file()}" if _file.cache_info().currsize else ""


def reasons() -> list[str]:
    """The last of Ray's lines that look like a reason."""
    if not _file.cache_info().currsize:
        return []
    found = dict.fromkeys(line[:MAX_CHARACTERS] for line in _tail() if REASON.search(line))
    return list(found)[-MAX_REASONS:]


@cache
def _file() -> str:
    """The file, one a process; named in the log when it is made."""
    started = datetime.datetime.now(datetime.UTC)
    descriptor, path = tempfile.mkstemp(".log", f"albert-embed-{started:%Y%m%dT%H%M%SZ}-")
    os.close(descriptor)
    telemetry.event(f"Ray's own messages: {path}")
    return path


def _tail() -> list[str]:
    try:
        with Path(_file()).open("rb") as messages:
            messages.seek(max(0, os.fstat(messages.fileno()).st_size - TAIL_BYTES))
            text = COLOUR.sub("", messages.read().decode(errors="replace"))
    except OSError:  # whoever tidies up temporary files was here
        return []
    return text.splitlines()
