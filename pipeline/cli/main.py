"""Where a command begins and ends: its arguments, its exit code, its last line."""

import argparse
import datetime
import gc
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

import shtab

import pipeline
from pipeline.cli import examples, plan_status_report, run_search, series_verify
from pipeline.cli.output import Said
from pipeline.errors import LONGEST, STOPPED, ExitCode, PipelineError
from pipeline.sanitize import block, printable
from pipeline.telemetry import console

SHELLS = ("bash", "zsh")
GARBAGE = 100_000, 50, 100
"""Thresholds of Python's collector: by its own it looks at a million listed shards again and again while they
are listed, for longer than listing them takes."""


def completion(arguments: argparse.Namespace) -> Said:
    """A script for a shell, made from the parser itself."""
    sys.stdout.write(shtab.complete(parser(), shell=arguments.shell) + "\n")
    return ExitCode.DONE, ""


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], Said], str]] = {
    "plan": (plan_status_report.plan, "show what would be done, and about what it would cost; write nothing"),
    "run": (run_search.run, "do it, or what is left of it"),
    "status": (plan_status_report.status, "show how far it is, from the dataset alone"),
    "report": (
        plan_status_report.report,
        "write the report of what is there, complete or not, to a local file",
    ),
    "search": (run_search.search_, "show the rows nearest to a text; exact, fine to a few million rows"),
    "nightly": (run_search.nightly, "run a job of a series, for a date that is named"),
    "retry-rejects": (run_search.retry_rejects, "try rejects that may be mended again, in a new dataset"),
    "rollback": (
        series_verify.rollback,
        "let readers of a series follow an older dataset, until it is unpinned",
    ),
    "prune": (series_verify.prune, "remove the old datasets of a series that nobody needs"),
    "verify": (
        series_verify.verify_,
        "audit a dataset by its folder or URL; exit code 3 where it is not sound",
    ),
    "completion": (completion, "print what makes a shell complete our commands and options"),
}
CONFIG_HELP = {"status": "the job's YAML file; or a dataset's folder or URL"}
WITHOUT_CONFIG = ("verify", "completion")
WITHOUT_SETTINGS = ("completion",)
WITHOUT_DATE = (*WITHOUT_SETTINGS, "rollback", "prune")


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
            console.say(block(traceback.format_exc()))
    except (KeyboardInterrupt, SystemExit):
        code, reason = ExitCode.RETRYABLE, STOPPED
    except BaseException as error:  # the last boundary: a bug, and a panic in Rust, end with one line too
        console.say(block(traceback.format_exc()))
        code, reason = ExitCode.BUG, f"a bug of ours: {error!r}"
    sys.stdout.flush()
    if code:
        _say_last(code, reason)
    return int(code)


def _say_last(code: ExitCode, reason: str) -> None:
    """Say why a process ends; `ray job submit` turns every failure into 1, the last line tells them apart."""
    first, *more = reason.split("\n")
    if more:
        console.say(printable(first, LONGEST))
        console.say("\n".join(f"  {printable(line.strip(), LONGEST)}" for line in more))
    console.say(f"exit {int(code)}: {printable(first.rstrip(':'), LONGEST)}")


class _Parser(argparse.ArgumentParser):
    """One whose complaints hold arguments as they can be shown: names of files, by a shell's pattern."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    whole = _Parser(
        prog="albert-embed",
        description="Embed a corpus with ALBERT on Ray.",
        epilog=examples.all_commands(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=pipeline.__version__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, text) in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=examples.of(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(command=command)
        if name not in WITHOUT_CONFIG:
            _complete_file(one.add_argument("config", help=CONFIG_HELP.get(name, "the job's YAML file")))
        if name not in WITHOUT_SETTINGS:
            one.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="section.field=value",
                help="override the config",
            )
        if name not in WITHOUT_DATE:
            one.add_argument(
                "--run-date",
                type=_date,
                help="what {run_date} means (default: today, UTC; nightly has none)",
            )
        _ADD.get(name, _nothing)(one)
        if name != "completion":
            one.add_argument("--json", action="store_true", help="print JSON")
        one.add_argument("--quiet", action="store_true", help="no progress")
        one.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    return whole


def _complete_file(argument: argparse.Action) -> None:
    """Let shells complete file names there."""
    vars(argument)["complete"] = shtab.FILE


def _search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", help="a text")
    parser.add_argument("--count", type=int, default=5, help="how many rows (default: 5)")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", metavar="FILE", default="report.html", help="the file (default: report.html, here)"
    )


def _retry_rejects(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", metavar="PATH", help="the new dataset (default: beside the old one, -retry1)")


def _rollback(parser: argparse.ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--to", metavar="NAME", help="which dataset (default: the one before)")
    way.add_argument("--unpin", action="store_true", help="follow the newest again, and later runs")


def _prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, default=3, metavar="N", help="the newest that stay (default: 3)")
    parser.add_argument(
        "--older-than", type=int, metavar="DAYS", help="of the others, only those of longer ago"
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def _verify(parser: argparse.ArgumentParser) -> None:
    _complete_file(parser.add_argument("dataset", help="the dataset's folder or URL"))
    text = "the job's YAML file: look at its sources, too (what the dataset says of itself is not followed)"
    _complete_file(parser.add_argument("--config", metavar="FILE", help=text))
    parser.add_argument(
        "--deep",
        type=_fraction,
        default=0.0,
        metavar="FRACTION",
        help="embed so many of the rows again (0 to 1); needs --config",
    )


def _nothing(_: argparse.ArgumentParser) -> None:
    """Most commands have no arguments of their own."""


_ADD = {
    "search": _search, "report": _report, "retry-rejects": _retry_rejects, "rollback": _rollback,
    "prune": _prune, "verify": _verify, "completion": _completion,
}  # fmt: skip


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-11-25") from None


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End the run; no `except Exception` of any library swallows this, and a second signal kills."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(int(ExitCode.RETRYABLE))
