"""Runs one command: parses its arguments, prints its last line, and returns its exit code."""

import argparse
import gc
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import pipeline
from pipeline import supervise
from pipeline.cli import (
    changes,
    completion,
    examples,
    init,
    nightly,
    plan,
    prune,
    publish,
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
"""Thresholds of Python's garbage collector. With its defaults, listing a million shards takes less time than
the collector spends on visiting them again and again."""
MODULES = (
    init, plan, run, status, report, search, nightly, changes, retry_rejects, rollback, publish, prune,
    verify, completion,
)  # fmt: skip
"""The commands in the order of the help. A new command is a module of this package, and a name here."""
COMMANDS = {module.COMMAND.name: module.COMMAND for module in MODULES}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(argv)
    gc.set_threshold(*GARBAGE)
    handler = console.Handler(muted="ray")
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    try:
        code, reason = arguments.command(arguments)
    except PipelineError as error:
        code, reason = error.exit_code, str(error)
        if arguments.debug:
            console.print_line(block(traceback.format_exc()))
    except (KeyboardInterrupt, SystemExit):
        code, reason = ExitCode.RETRYABLE, STOPPED
    except BaseException as error:  # the last boundary: even a bug or a panic in Rust ends with one line
        console.print_line(block(traceback.format_exc()))
        code, reason = ExitCode.BUG, f"a bug in this program: {error!r}"
    sys.stdout.flush()
    if code:
        _say_last(code, reason)
    supervise.tell(code=int(code), reason=reason.split("\n")[0].rstrip(":"))
    return int(code)


def _say_last(code: ExitCode, reason: str) -> None:
    """Prints why the process ends.

    `ray job submit` turns every exit code but 0 into 1; only the last line tells them apart.
    """
    first, *more = reason.split("\n")
    if more:
        console.print_line(printable(first, LONGEST))
        console.print_line("\n".join(f"  {printable(line.strip(), LONGEST)}" for line in more))
    console.print_line(f"exit {int(code)}: {printable(first.rstrip(':'), LONGEST)}")


class _Parser(argparse.ArgumentParser):
    """A parser whose messages show arguments safely: a shell's pattern may have put any file name there."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands and their arguments."""
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
