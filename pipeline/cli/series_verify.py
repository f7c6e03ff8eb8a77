"""Commands about datasets that are there: readers taken back, old ones removed, one audited."""

import datetime
from argparse import Namespace
from dataclasses import asdict

from pipeline.cli.output import Said, figure, printable, show, show_json, write
from pipeline.config import sections
from pipeline.config.load import load_config
from pipeline.errors import ConfigError, ExitCode
from pipeline.nightly import Fate, Series
from pipeline.verify import verify

MOST_LINES = 20
"""Of findings, those that a person is shown."""


def rollback(arguments: Namespace) -> Said:
    series = series_of(arguments)
    latest = series.unpin() if arguments.unpin else series.rollback(arguments.to)
    show(arguments, {"series": series.layout.root, **latest.fields()})
    return ExitCode.DONE, ""


def prune(arguments: Namespace) -> Said:
    series = series_of(arguments)
    fates = series.prune(arguments.keep, arguments.older_than, arguments.dry_run)
    if arguments.json:
        datasets = [asdict(fate) for fate in fates]
        show(arguments, {"series": series.layout.root, "dry_run": arguments.dry_run, "datasets": datasets})
        return ExitCode.DONE, ""
    for fate in fates:
        write(*_fate(fate, arguments.dry_run))
    return ExitCode.DONE, ""


def _fate(fate: Fate, dry_run: bool) -> list[str]:
    """What becomes of a dataset, in a line; and one more for what is somebody else's in it."""
    word = "kept" if not fate.removed else "would go" if dry_run else "removed"
    name, left = printable(fate.name, 40), printable(", ".join(fate.left), 90)
    stays = [f"{'':{len(name)}}  {'stays':<8}  not ours: {left}"] if left else []
    return [f"{name}  {word:<8}  {fate.reason}", *stays]


def series_of(arguments: Namespace) -> Series:
    """The series that a config writes into: the folder above its datasets.

    Raises:
        ConfigError: they are not called by their run date alone.
    """
    # No run is of this date: where it stands in the path, `{run_date}` stood.
    never = datetime.date.min
    output = load_config(arguments.config, arguments.set, never).output
    folder, _, name = output.path.rpartition("/")
    if name != never.isoformat() or name in folder or not folder.strip("/") or folder.endswith(":/"):
        hint = "such as s3://bucket/embeddings/{run_date}"
        raise ConfigError(
            "a series needs {run_date} as the last part of output.path",
            got=output.path.replace(never.isoformat(), "{run_date}"),
            hint=hint,
        )
    return Series(folder, output.options)


def verify_(arguments: Namespace) -> Said:
    report = verify.verify(arguments.dataset, arguments.deep, _own_config(arguments))
    found = report.findings
    if arguments.json:
        checks = [{"result": check.result} | asdict(check) for check in report.checks]
        content = {"dataset": report.dataset, "findings": len(found), "checks": checks, "notes": report.notes}
        show_json(content)
    else:
        _show_report(report)
    if not found:
        return ExitCode.DONE, ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return ExitCode.INCOMPLETE, f"{printable(str(found[0]), 1000)}{more}"


def _own_config(arguments: Namespace) -> sections.Config | None:
    """The config that the caller names, and so trusts."""
    if arguments.config:
        return load_config(arguments.config, arguments.set, arguments.run_date)
    if arguments.set or arguments.run_date:
        hint = "name the config, too: --config FILE"
        raise ConfigError("means nothing to a dataset", "--set, --run-date", arguments.dataset, hint)
    return None


def _show_report(report: verify.Report) -> None:
    """The table of checks, then what they found."""
    for check in report.checks:
        figures = ", ".join(
            value if isinstance(value, str) else f"{figure(value)} {name}"
            for name, value in check.figures.items()
        )
        text = check.skipped if check.result == "not checked" else figures
        write(f"{check.name:>16}  {check.result:<12}  {printable(text, 200)}".rstrip())
    found = [str(finding) for finding in report.findings]
    for heading, lines in (("found", found), ("noted", report.notes)):
        if lines:
            shown = [printable(line, 1000) for line in lines[:MOST_LINES]]
            more = [f"and {len(lines) - MOST_LINES} more (--json has all)"] if len(lines) > MOST_LINES else []
            write("", f"{heading}:", *(f"  {line}" for line in [*shown, *more]))
