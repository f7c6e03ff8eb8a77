"""The command `verify`: audits a dataset."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from pipeline.cli.arguments import complete_file, config_of, fraction
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, figure, printable, show_json, write
from pipeline.config.sections import Config
from pipeline.errors import ConfigError, ExitCode
from pipeline.humanize import and_more, first_few
from pipeline.verify import verify

MAX_LINES = 20
"""Findings that a person is shown; `--json` prints all."""


def add_arguments(parser: ArgumentParser) -> None:
    complete_file(parser.add_argument("dataset", help="the dataset's folder or URL"))
    text = "the job's YAML file: check its sources, too (those that the dataset names are not contacted)"
    complete_file(parser.add_argument("--config", metavar="FILE", help=text))
    parser.add_argument(
        "--deep",
        type=fraction,
        default=0.0,
        metavar="FRACTION",
        help="embed this fraction of the rows again (0 to 1); needs --config",
    )


def run(arguments: Namespace) -> CommandResult:
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
    return ExitCode.INCOMPLETE, f"{printable(str(found[0]), 1000)}{and_more(len(found) - 1)}"


def _own_config(arguments: Namespace) -> Config | None:
    """Loads the config that the caller names, and so trusts."""
    if arguments.config:
        return config_of(arguments)
    if arguments.set or arguments.run_date:
        hint = "name the config, too: --config FILE"
        raise ConfigError("do not apply to a dataset", "--set, --run-date", arguments.dataset, hint)
    return None


def _show_report(report: verify.Report) -> None:
    """Prints the table of checks, then their findings."""
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
            shown = first_few(lines, MAX_LINES, " (--json has all)")
            write("", f"{heading}:", *(f"  {printable(line, 1000)}" for line in shown))


COMMAND = Command(
    name="verify",
    help="audit a dataset by its folder or URL; exit code 3 if it is not sound",
    run=run,
    add_arguments=add_arguments,
    config=None,
    examples=(
        ("verify .demo/embeddings", "is everything there, and as it was written"),
        ("verify .demo/embeddings --config configs/demo.yaml", "and whether its sources are as planned"),
        (
            "verify .demo/embeddings --config configs/demo.yaml --deep 0.01",
            "and embed one row of a hundred again",
        ),
    ),
)
