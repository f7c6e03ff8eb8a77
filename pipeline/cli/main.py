"""Where a command begins and ends: its arguments, its exit code, its last line."""

import argparse
import gc
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import pipeline
from pipeline.cli import (
    completion,
    examples,
    nightly,
    plan,
    prune,
    report,
    retry_rejects,
    rollback,
    run,
    search,
    status,
    verify,
)
from pipeline.cli.arguments import add_arguments
from pipeline.errors import LONGEST, STOPPED, ExitCode, PipelineError
from pipeline.sanitize import block, printable
from pipeline.telemetry import console

GARBAGE = 100_000, 50, 100
"""Thresholds of Python's collector: by its own it looks at a million listed shards again and again while they
are listed, for longer than listing them takes."""
MODULES = (
    plan, run, status, report, search, nightly, retry_rejects, rollback, prune, verify, completion,
)  # fmt: skip
"""In the order of the help. A new command is a module of this package, and a name here."""
COMMANDS = {module.COMMAND.name: module.COMMAND for module in MODULES}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = parser().parse_args(argv)
    gc.set_threshold(*GARBAGE)
    handler = console.Handler(muted="ray")
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    signal.signal(signal.SIGTERM, _stop)
    try:
        code, reason = arguments.command(arguments)
    except PipelineError as error:
        code, reason = error.exit_code, str(error)
        if arguments.debug:
            console.print_line(block(traceback.format_exc()))
    except (KeyboardInterrupt, SystemExit):
        code, reason = ExitCode.RETRYABLE, STOPPED
    except BaseException as error:  # the last boundary: a bug, and a panic in Rust, end with one line too
        console.print_line(block(traceback.format_exc()))
        code, reason = ExitCode.BUG, f"a bug of ours: {error!r}"
    sys.stdout.flush()
    if code:
        _say_last(code, reason)
    return int(code)


def _say_last(code: ExitCode, reason: str) -> None:
    """Say why a process ends; `ray job submit` turns every failure into 1, the last line tells them apart."""
    first, *more = reason.split("\n")
    if more:
        console.print_line(printable(first, LONGEST))
        console.print_line("\n".join(f"  {printable(line.strip(), LONGEST)}" for line in more))
    console.print_line(f"exit {int(code)}: {printable(first.rstrip(':'), LONGEST)}")


class _Parser(argparse.ArgumentParser):
    """One whose complaints hold arguments as they can be shown: names of files, by a shell's pattern."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    whole = _Parser(
        prog="albert-embed",
        description="Embed a corpus with ALBERT on Ray.",
        epilog=examples.of_all(COMMANDS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=pipeline.__version__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=examples.of(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(command=command.run, parser=whole)
        add_arguments(one, command)
    return whole


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End the run; no `except Exception` of any library swallows this, and a second signal kills."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(int(ExitCode.RETRYABLE))
