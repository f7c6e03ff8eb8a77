"""The command line: arguments in, exit codes out."""

import argparse
import dataclasses
import datetime
import json
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType
from typing import Any, NoReturn

import pyarrow.compute as pc

import pipeline
from pipeline import config, plan, schema, search, verify
from pipeline.dataset import Dataset, Identity
from pipeline.errors import STOPPED, ConfigError, ExitCode, PipelineError
from pipeline.recipe import Recipe
from pipeline.series import Fate, Series
from pipeline.stages import usable_checkpoint

EXAMPLES = """\
examples:
  python -m pipeline plan configs/demo.yaml            what would be done
  python -m pipeline run configs/demo.yaml             do it, or what is left of it
  python -m pipeline run configs/demo.yaml --set model.max_tokens=128 --set output.path=/tmp/short
  python -m pipeline status configs/demo.yaml          how far it is
  python -m pipeline search configs/demo.yaml "copy a file"     the rows nearest to a text
  python -m pipeline rollback configs/nightly.yaml     let readers follow the dataset before
  python -m pipeline prune configs/nightly.yaml --keep 7 --dry-run     which old datasets nobody needs
  python -m pipeline verify .demo/embeddings           is all there, and as it was written

exit codes: 0 done; 1 a bug of ours; 2 config; 3 files failed, too many rejects, or findings; 4 run it again;
            5 the output belongs to another config; 6 complete, but the source has moved on
"""

MOST_LINES = 20
"""Of findings, those that a person is shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="albert-embed",
        description="Embed a corpus with ALBERT on Ray.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=pipeline.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("plan", _plan, "show what would be done; write nothing"),
        ("run", _run, "do it, or what is left of it"),
        ("status", _status, "show how far it is, from the dataset alone"),
        ("search", _search, "show the rows nearest to a text; exact, fine to a few million rows"),
        ("rollback", _rollback, "let readers of a series follow an older dataset, until it is unpinned"),
        ("prune", _prune, "remove the old datasets of a series that nobody needs"),
        (
            "verify",
            _verify,
            "audit a dataset, from its folder or URL alone; exit code 3 where it is not sound",
        ),
    ):
        command_parser = commands.add_parser(name, help=text, description=text)
        command_parser.set_defaults(command=command)
        if command is _verify:
            _add_dataset(command_parser)
        else:
            _add_config(command_parser)
        if command is _search:
            command_parser.add_argument("query", help="a text")
            command_parser.add_argument("--count", type=int, default=5, help="how many rows (default: 5)")
        if command is _rollback:
            way = command_parser.add_mutually_exclusive_group()
            way.add_argument("--to", metavar="NAME", help="which dataset (default: the one before)")
            way.add_argument("--unpin", action="store_true", help="follow the newest again, and later runs")
        if command is _prune:
            command_parser.add_argument(
                "--keep", type=int, default=3, metavar="N", help="the newest that stay (default: 3)"
            )
            command_parser.add_argument(
                "--older-than", type=int, metavar="DAYS", help="of the others, only those of longer ago"
            )
            command_parser.add_argument("--dry-run", action="store_true", help="only tell")
        command_parser.add_argument("--json", action="store_true", help="print JSON")
        command_parser.add_argument("--quiet", action="store_true", help="no progress")
        command_parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="the job's YAML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.field=value", help="override the config"
    )
    parser.add_argument(
        "--run-date", type=datetime.date.fromisoformat, help="what {run_date} means (default: today, UTC)"
    )


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="the dataset's folder or URL")
    parser.add_argument(
        "--deep",
        type=_fraction,
        default=0.0,
        metavar="FRACTION",
        help="embed so many of the rows again (0 to 1)",
    )


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End the run; no `except Exception` of any library swallows this, and a second signal kills."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(int(ExitCode.RETRYABLE))


def _load(arguments: argparse.Namespace) -> config.Config:
    return config.load(arguments.config, arguments.set, arguments.run_date)


def _run(arguments: argparse.Namespace) -> tuple[ExitCode, str]:
    # `plan` and `status` must start without Ray, and this pulls it in.
    from pipeline.run import run  # noqa: PLC0415

    job = _load(arguments)
    ending = run(job, arguments.quiet)
    summary = {"code": int(ending.code), "output": job.output.path, **ending.summary}
    names = ("output", "reason", "files", "splits", "shards", "rows", "rejects", "tokens", "truncated")
    _show(arguments, summary, names)
    for file, reason in ending.summary["failed_files"].items():
        sys.stderr.write(f"failed: {file}: {reason.splitlines()[0]}\n")
    return ending.code, ending.reason


def _plan(arguments: argparse.Namespace) -> tuple[ExitCode, str]:
    job = _load(arguments)
    model = usable_checkpoint(job)
    identity = Identity.of(job, model)
    dataset = Dataset.of(job)
    dataset.refuse_unconditional()
    found = dataset.plan() if dataset.refuse_other(identity) else None
    made = plan.Plan.from_bytes(found) if found else plan.make(job, model, identity.dataset_digest)
    by_rows = made.pieces.filter(pc.equal(made.pieces.column("unit"), "rows").fill_null(False))
    files = made.pieces.group_by(["source", "file"]).aggregate([("size", "max")])
    pending = made.pending(dataset.shards())
    _show(
        arguments,
        {
            "output": job.output.path,
            "frozen": found is not None,
            "files": files.num_rows,
            "bytes": pc.sum(files.column("size_max")).as_py(),
            "rows counted": pc.sum(pc.subtract(by_rows.column("stop"), by_rows.column("start"))).as_py() or 0,
            "splits": len(made.split_ids),
            "pending": len(pending.split_ids),
            "bytes to read": pending.stored_bytes,
            "scans": sum(1 for _ in pending.scans()),
            "columns": [*made.columns.names, "embedding"],
            "dimension": Recipe.of(model, job.model).dimension(model),
            "failed files": made.failed_files,
        },
    )
    return ExitCode.DONE, ""


def _status(arguments: argparse.Namespace) -> tuple[ExitCode, str]:
    dataset = Dataset.of(_load(arguments))
    found = dataset.plan()
    state: dict[str, Any] = {"output": dataset.layout.root, "state": "not started"}
    if found:
        made = plan.Plan.from_bytes(found)
        shards = dataset.shards()
        records = dataset.records(shards)
        state["state"] = "complete" if dataset.complete() else "unfinished"
        state |= {"splits": len(made.split_ids), "done": len(shards)}
        state |= {name: pc.sum(records.column(name)).as_py() or 0 for name in ("rows", "rejects", "tokens")}
        state["failed files"] = made.failed_files
    if attempts := dataset.attempts():
        last = attempts[-1]
        ending = f"exit {last['code']}: {last['reason']}" if "code" in last else "running, or killed"
        state |= {"attempts": len(attempts), "last attempt": last["attempt"], "it ended": ending}
    _show(arguments, state)
    return ExitCode.DONE, ""


def _search(arguments: argparse.Namespace) -> tuple[ExitCode, str]:
    job = _load(arguments)
    hits = search.search(job, usable_checkpoint(job), arguments.query, arguments.count)
    planned = plan.Plan.from_bytes(Dataset.of(job).plan() or b"") if hits else None
    texts = [search.source_text(job, planned, hit.row) if planned else None for hit in hits]
    if arguments.json:
        found = [{"score": hit.score, "text": text, **hit.row} for hit, text in zip(hits, texts, strict=True)]
        sys.stdout.write(json.dumps(found, indent=2, default=_jsonable) + "\n")
        return ExitCode.DONE, ""
    for hit, text in zip(hits, texts, strict=True):
        carried = [str(value) for name, value in hit.row.items() if name not in schema.reserved_names()]
        sys.stdout.write(f"{hit.score:7.4f}  {_printable('  '.join(carried), 90)}\n")
        sys.stdout.write(f"         {_printable(text or '(its source is gone or has changed)', 90)}\n")
    return ExitCode.DONE, ""


def _rollback(arguments: argparse.Namespace) -> tuple[ExitCode, str]:
    series = _series(arguments)
    latest = series.unpin() if arguments.unpin else series.rollback(arguments.to)
    _show(arguments, {"series": series.layout.root, **latest.fields()})
    return ExitCode.DONE, ""


def _prune(arguments: argparse.Namespace) -> tuple[ExitCode, str]:
    series = _series(arguments)
    fates = series.prune(arguments.keep, arguments.older_than, arguments.dry_run)
    if arguments.json:
        datasets = [dataclasses.asdict(fate) for fate in fates]
        _show(arguments, {"series": series.layout.root, "dry_run": arguments.dry_run, "datasets": datasets})
        return ExitCode.DONE, ""
    for fate in fates:
        sys.stdout.write(_fate(fate, arguments.dry_run))
    return ExitCode.DONE, ""


def _fate(fate: Fate, dry_run: bool) -> str:
    """What becomes of a dataset, in a line; and one more for what is somebody else's in it."""
    word = "kept" if not fate.removed else "would go" if dry_run else "removed"
    line = f"{_printable(fate.name, 40)}  {word:<8}  {fate.reason}\n"
    left = _printable(", ".join(fate.left), 90)
    return line + (f"{'':{len(fate.name)}}  {'stays':<8}  not ours: {left}\n" if left else "")


def _series(arguments: argparse.Namespace) -> Series:
    """The series that a config writes into: the folder above its datasets.

    Raises:
        ConfigError: they are not called by their run date alone.
    """
    # No run is of this date: where it stands in the path, `{run_date}` stood.
    never = datetime.date.min
    output = config.load(arguments.config, arguments.set, never).output
    folder, _, name = output.path.rpartition("/")
    if name != never.isoformat() or name in folder or not folder.strip("/") or folder.endswith(":/"):
        hint = "such as s3://bucket/embeddings/{run_date}"
        raise ConfigError(
            "a series needs {run_date} as the last part of output.path",
            got=output.path.replace(never.isoformat(), "{run_date}"),
            hint=hint,
        )
    return Series(folder, output.options)


def _verify(arguments: argparse.Namespace) -> tuple[ExitCode, str]:
    report = verify.verify(arguments.dataset, arguments.deep)
    found = report.findings
    if arguments.json:
        checks = [{"result": check.result} | asdict(check) for check in report.checks]
        content = {"dataset": report.dataset, "findings": len(found), "checks": checks, "notes": report.notes}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        _show_report(report)
    if not found:
        return ExitCode.DONE, ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return ExitCode.INCOMPLETE, f"{_printable(str(found[0]), 1000)}{more}"


def _show_report(report: verify.Report) -> None:
    """The table of checks, then what they found."""
    for check in report.checks:
        figures = ", ".join(
            value if isinstance(value, str) else f"{_figure(value)} {name}"
            for name, value in check.figures.items()
        )
        text = check.skipped if check.result == "not checked" else figures
        sys.stdout.write(f"{check.name:>16}  {check.result:<12}  {_printable(text, 200)}".rstrip() + "\n")
    found = [str(finding) for finding in report.findings]
    for heading, lines in (("found", found), ("noted", report.notes)):
        if lines:
            shown = [_printable(line, 1000) for line in lines[:MOST_LINES]]
            more = [f"and {len(lines) - MOST_LINES} more (--json has all)"] if len(lines) > MOST_LINES else []
            sys.stdout.write("\n  ".join([f"\n{heading}:", *shown, *more]) + "\n")


def _printable(text: str, width: int) -> str:
    """The beginning of a text on one line, without what could steer a terminal."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _jsonable(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _show(arguments: argparse.Namespace, values: dict[str, Any], names: Sequence[str] | None = None) -> None:
    """Print figures to standard output: all of them as JSON, or the named ones for a person."""
    if arguments.json:
        sys.stdout.write(json.dumps(values, indent=2) + "\n")
        return
    for name in names or values:
        value = values[name]
        text = ", ".join(f"{item}" for item in value) if isinstance(value, list) else _figure(value)
        sys.stdout.write(f"{name:>16}  {text}\n")


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
