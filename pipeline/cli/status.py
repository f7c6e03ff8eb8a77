"""The command `status`: shows how far a run is, from the dataset alone."""

import datetime
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from pipeline.cli.arguments import config_of
from pipeline.cli.command import Command
from pipeline.cli.output import MAX_SHOWN, CommandResult, Lines, failed_lines, printable, show, show_lines
from pipeline.config.location import is_url
from pipeline.dataset.attempts import Attempt
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ConfigError, ExitCode
from pipeline.humanize import duration, share
from pipeline.operate.status import RECENT_MINUTES, Standing, standing
from pipeline.verify import verify

MAX_LABELS = 10
"""The most labels of an output that a person is shown; `--json` prints all."""


def add_arguments(parser: ArgumentParser) -> None:
    text = (
        "tell the state by the exit code, too: 0 complete, 7 at work, 4 run it, else that of the last attempt"
    )
    parser.add_argument("--exit-code", action="store_true", help=text)


def run(arguments: Namespace) -> CommandResult:
    found = standing(_dataset(arguments))
    if arguments.json:
        show(arguments, found.fields())
    else:
        show_lines(f"{found.output}: {_state(found)}", _standing_lines(found))
    return (found.code, _state(found)) if arguments.exit_code else (ExitCode.DONE, "")


def _dataset(arguments: Namespace) -> Dataset:
    """Returns the dataset that a config writes, or the one at a folder or URL."""
    where = arguments.config
    if not is_url(where) and not Path(where).exists():
        raise ConfigError("is neither a config nor a dataset's folder", where, hint="check the path")
    if Path(where).is_file():
        return Dataset.of(config_of(arguments))
    if arguments.set or arguments.run_date:
        hint = "drop it, or name the config instead of the dataset"
        raise ConfigError("do not apply to a dataset", "--set, --run-date", where, hint)
    dataset = Dataset(verify.root(where))
    if dataset.identity() is None:
        hint = "name the folder that has dataset.json, or a config"
        raise ConfigError("no dataset here", dataset.layout.root, hint=hint)
    return dataset


def _state(found: Standing) -> str:
    """Describes the state, and claims no more than is known of it."""
    newest, silent = (found.attempts or [{}])[-1], found.silent_seconds
    if found.state == "stopped":
        return f"not complete; the last attempt ended with exit {newest['code']}"
    if found.state == "running" and silent is not None:
        return f"running, it seems: the last sign of life was {duration(silent)} ago"
    if found.state == "silent":
        since = f"since {_time(found.last_sign)}, {duration(silent)}" if silent is not None else "ever"
        return f"no sign of life {since}: killed, or busy with a split that takes longer"
    return found.state if found.state != "planned" else "planned; no attempt yet"


def _standing_lines(found: Standing) -> Lines:
    if found.figures is None:
        return
    figures = found.figures
    done = f" ({share(found.done, found.splits)})" if found.splits else ""
    yield "splits", f"{found.done:,} of {found.splits:,} done{done}, {found.pending:,} pending"
    yield "rows", f"{figures['rows']:,} embedded, of {figures['tokens']:,} tokens"
    if reasons := found.reject_reasons:
        told = ", ".join(f"{printable(reason, 40)} {rows:,}" for reason, rows in reasons.items())
        yield "rejects", f"{figures['rejects']:,}: {told}"
    for counted in (found.labels or {}).values():
        yield "labels", ", ".join(f"{printable(label, 40)} {rows:,}" for label, rows in _most(counted))
    yield from failed_lines(dict(found.failed_files or {}))
    if found.last_shard:
        ago = duration(max(0.0, (found.now - found.last_shard).total_seconds()))
        yield "last shard", f"{_time(found.last_shard)}, {ago} ago"
    if found.rate and found.state in ("running", "silent"):
        span = duration(found.rate.seconds)
        yield (
            "rate",
            (
                f"{found.rate.rows_per_second:,.1f} rows/s, {found.rate.splits_per_minute:,.1f} splits/min "
                f"over the {span} before that shard (at most {RECENT_MINUTES:.0f} min)"
            ),
        )
    if found.replicas and found.state in ("running", "silent"):
        placed, wanted = found.replicas["placed"], found.replicas["wanted"]
        yield "replicas", f"{placed:,} of {wanted:,} have a place; the others wait for nodes"
    if found.eta_seconds is not None:
        at = _time(found.now + datetime.timedelta(seconds=found.eta_seconds))
        yield "left", f"about {duration(found.eta_seconds)}, until {at}, at this rate"
    for number, attempt in enumerate(list(reversed(found.attempts))[:MAX_SHOWN]):
        last = number == 0 and found.state in ("running", "silent")
        yield "" if number else "attempts", f"{_attempt(attempt)}{'' if last else _ending(attempt)}"
    if len(found.attempts) > MAX_SHOWN:
        yield "", f"and {len(found.attempts) - MAX_SHOWN:,} older ones"


def _most(counted: Mapping[str, int]) -> list[tuple[str, int]]:
    """Returns the most frequent labels; they come first."""
    return list(counted.items())[:MAX_LABELS]


def _attempt(attempt: Attempt) -> str:
    host = printable(str(attempt.get("host")), 60)
    started = _time(datetime.datetime.fromisoformat(attempt["started"]))
    return f"{attempt['attempt']}, on {host}, process {attempt.get('pid')}, since {started}"


def _ending(attempt: Attempt) -> str:
    if "code" not in attempt:
        return "; recorded no ending"
    ended = _time(datetime.datetime.fromisoformat(attempt["ended"]))
    return f"; ended {ended}, exit {attempt['code']}: {printable(attempt['reason'], 300)}"


def _time(moment: datetime.datetime | None) -> str:
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "ever"


COMMAND = Command(
    name="status",
    help="show how far a run is, from the dataset alone",
    run=run,
    add_arguments=add_arguments,
    config="the job's YAML file; or a dataset's folder or URL",
    examples=(
        ("status configs/demo.yaml", "how far the run is, and whether it shows life"),
        ("status configs/nightly.yaml --run-date 2026-11-25", "of one night"),
        ("status .demo/embeddings", "of a dataset whose config is elsewhere"),
        ("status .demo/embeddings --exit-code", "for a sensor: 0 once the dataset is complete"),
    ),
)
