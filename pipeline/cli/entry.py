"""Where a command begins and ends: its arguments, its exit code, its last line."""

import argparse
import datetime
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

import pipeline
from pipeline.cli import datasets, runs
from pipeline.cli.show import Said
from pipeline.errors import STOPPED, ExitCode, PipelineError

EXAMPLES = """\
examples:
  python -m pipeline plan configs/demo.yaml            what would be done
  python -m pipeline run configs/demo.yaml             do it, or what is left of it
  python -m pipeline run configs/demo.yaml --set model.max_tokens=128 --set output.path=/tmp/short
  python -m pipeline status configs/demo.yaml          how far it is
  python -m pipeline search configs/demo.yaml "copy a file"     the rows nearest to a text
  python -m pipeline verify .demo/embeddings           is all there, and as it was written
  python -m pipeline nightly configs/nightly.yaml --run-date 2026-11-25     embed what changed
  python -m pipeline rollback configs/nightly.yaml     let readers follow the dataset before
  python -m pipeline prune configs/nightly.yaml --keep 7 --dry-run     which old datasets nobody needs

exit codes: 0 done; 1 a bug of ours; 2 config; 3 files failed, too many rejects, or findings; 4 run it again;
            5 the output belongs to another config; 6 complete, but the source has moved on
"""
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], Said], str]] = {
    "plan": (runs.plan_, "show what would be done; write nothing"),
    "run": (runs.run, "do it, or what is left of it"),
    "status": (runs.status, "show how far it is, from the dataset alone"),
    "search": (runs.search_, "show the rows nearest to a text; exact, fine to a few million rows"),
    "nightly": (runs.nightly, "run a job of a series, for a date that is named"),
    "retry-rejects": (runs.retry_rejects, "try rejects that may be mended again, in a new dataset"),
    "rollback": (datasets.rollback, "let readers of a series follow an older dataset, until it is unpinned"),
    "prune": (datasets.prune, "remove the old datasets of a series that nobody needs"),
    "verify": (datasets.verify_, "audit a dataset by its folder or URL; exit code 3 where it is not sound"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("pipeline").setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    signal.signal(signal.SIGTERM, _stop)
    try:
        code, reason = arguments.command(arguments)
    except PipelineError as error:
        code, reason = error.exit_code, str(error)
        if arguments.debug:
            traceback.print_exc()
    except (KeyboardInterrupt, SystemExit):
        code, reason = ExitCode.RETRYABLE, STOPPED
    except Exception as error:  # the last boundary: a bug still ends with its code and one line
        traceback.print_exc()
        code, reason = ExitCode.BUG, f"a bug of ours: {error!r}"
    sys.stdout.flush()
    if code:
        # `ray job submit` turns every failure into 1: the last line is what tells them apart.
        first, *more = reason.splitlines()
        sys.stderr.write(
            "\n".join([*([reason] if more else []), f"exit {int(code)}: {first.rstrip(':')}", ""])
        )
    return int(code)


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    whole = argparse.ArgumentParser(
        prog="albert-embed",
        description="Embed a corpus with ALBERT on Ray.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=pipeline.__version__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, text) in COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        if name != "verify":
            one.add_argument("config", help="the job's YAML file")
            one.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="section.field=value",
                help="override the config",
            )
        if name not in ("verify", "rollback", "prune"):
            one.add_argument(
                "--run-date",
                type=datetime.date.fromisoformat,
                help="what {run_date} means (default: today, UTC; nightly has none)",
            )
        _ADD.get(name, _nothing)(one)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.add_argument("--quiet", action="store_true", help="no progress")
        one.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    return whole


def _search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", help="a text")
    parser.add_argument("--count", type=int, default=5, help="how many rows (default: 5)")


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


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="the dataset's folder or URL")
    parser.add_argument(
        "--deep",
        type=_fraction,
        default=0.0,
        metavar="FRACTION",
        help="embed so many of the rows again (0 to 1)",
    )


def _nothing(_: argparse.ArgumentParser) -> None:
    """Most commands have no arguments of their own."""


_ADD = {
    "search": _search, "retry-rejects": _retry_rejects, "rollback": _rollback, "prune": _prune,
    "verify": _verify,
}  # fmt: skip


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End the run; no `except Exception` of any library swallows this, and a second signal kills."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(int(ExitCode.RETRYABLE))
