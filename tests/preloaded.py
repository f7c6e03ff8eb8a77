"""Runs Python in processes of their own that have loaded Ray Data and torch already: they are forks.

A new process takes five seconds to import these, which is most of what a test of a single command would take.
Tests of starts, of memory, and of what is imported need a new process.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path

MODULES = ["ray.data", "torch", "pipeline.cli", "pipeline.driver.run", "pipeline.model.encoder"]
_context: list[ForkServerContext] = []


def python(
    script: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script; returns its exit code, and what it printed.

    Args:
        env: further variables of its environment. Ray and torch have read theirs before.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        environment = os.environ | dict(env or {})
        told = (script, arguments, environment, str(Path.cwd()), str(out), str(err))
        process = _server().Process(target=_execute, args=told)
        process.start()
        process.join()
        code = process.exitcode
        assert code is not None
        process.close()
        said = (path.read_text() if path.exists() else "" for path in (out, err))
        return subprocess.CompletedProcess(arguments, code, *said)


def _server() -> ForkServerContext:
    """Returns the context of the one process that is forked, which starts with the first script."""
    if not _context:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        _context.append(context)
    return _context[0]


def _execute(
    script: str, arguments: tuple[str, ...], environment: dict[str, str], folder: str, out: str, err: str
) -> None:
    """Executes a script in this process, as `python -c` does."""
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    code = 1
    try:
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
