"""Commands that only look: what a run would do and cost, and how far one is."""

import datetime
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from pipeline.cli.output import Lines, Said, byte_size, duration, plural, printable, show, show_lines, write
from pipeline.config.load import load_config
from pipeline.dataset import commit
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ConfigError, ExitCode, MissingError
from pipeline.estimate.estimate import Forecast, Reuse, forecast, sample_fields
from pipeline.estimate.token_lengths import PADDED_BATCH, Tokens
from pipeline.operate.status import RECENT_MINUTES, Attempt, Standing, standing
from pipeline.plan.plan import Plan
from pipeline.verify import verify

MOST_SHOWN = 5
"""Of failed files and attempts, those that a person is shown; --json has all."""
BAR = 40
RATES = {
    "config": "as cost.tokens_per_second says",
    "this dataset": "measured over {:,} tokens of this dataset",
    "base": "measured over {:,} tokens of the base",
    "guess": "a rough guess; set cost.tokens_per_second, or run a part",
}


def plan(arguments: Namespace) -> Said:
    found = forecast(load_config(arguments.config, arguments.set, arguments.run_date))
    if arguments.json:
        show(arguments, found.fields())
        return ExitCode.DONE, ""
    show_lines(f"plan of {found.config.output.path}: {found.state}", _forecast_lines(found))
    if found.cautions:
        write("")
        show_lines("worth knowing", [(each.kind, each.text) for each in found.cautions])
    return ExitCode.DONE, ""


def _forecast_lines(found: Forecast) -> Lines:
    stored = sum(found.files.column("size").to_pylist())
    pending = len(found.pending.split_ids)
    yield "source", f"{plural(found.files.num_rows, 'file')}, {byte_size(stored)}; {_rows(found)}"
    yield from _failed_lines(found.made.failed_files)
    reading = (
        f", in {plural(found.scans, 'scan')}; {byte_size(found.pending.stored_bytes)} to read"
        if pending
        else ""
    )
    yield "splits", f"{len(found.made.split_ids):,}, of them {pending:,} pending{reading}"
    if found.reuse:
        yield "reuse", _reuse(found.reuse)
    if not len(found.todo.split_ids):
        yield "embed", "nothing is left to embed"
        return
    yield "embed", _work(found)
    sample = sample_fields(found.sample, found.lengths)
    yield (
        "sample",
        (
            f"{plural(sample['texts'], 'text')} from {plural(sample['stretches'], 'place')} in "
            f"{plural(sample['files'], 'file')}, {byte_size(sample['text_bytes'])} of text; "
            f"{byte_size(sample['read_bytes'])} read"
        ),
    )
    if found.lengths:
        yield from _length_lines(found.lengths, found)
    yield from _cost_lines(found)
    yield from _output_lines(found)


def _rows(found: Forecast) -> str:
    counted, estimated = found.counted_rows, found.estimated_rows
    if estimated is None:
        return f"{counted:,} rows counted; those of files that are cut by bytes are not estimated"
    if not estimated:
        return f"{counted:,} rows, counted"
    return f"about {estimated:,} rows, by the sample" + (f"; and {counted:,} counted" if counted else "")


def _failed_lines(failed: dict[str, str]) -> Lines:
    for number, (file, reason) in enumerate(list(failed.items())[:MOST_SHOWN]):
        yield "" if number else "failed", printable(f"{file}: {reason.splitlines()[0]}", 300)
    if len(failed) > MOST_SHOWN:
        yield "", f"and {len(failed) - MOST_SHOWN:,} more"


def _reuse(found: Reuse) -> str:
    return (
        f"of {found.base}: {plural(len(found.copied), 'shard')} of {plural(found.copied_rows, 'row')} "
        f"copied; {plural(found.unchanged_rows, 'row')} of {plural(len(found.unchanged), 'unchanged file')} "
        f"taken; of changed files {plural(found.changed_rows, 'row')} at most, which count as new below"
    )


def _work(found: Forecast) -> str:
    if found.texts is None or found.tokens is None:
        return "unknown: not all of it could be sampled"
    windows = f" in {found.new_rows:,} windows" if found.recipe.chunked else ""
    rejects = f"; {found.rejects:,} rejected" if found.rejects else ""
    return f"about {plural(found.texts, 'text')}{windows} of {found.tokens:,} tokens{rejects}"


def _length_lines(lengths: Tokens, found: Forecast) -> Lines:
    kind, cut = "a window", ""
    if found.recipe.long_text == "truncate":
        kind, cut = "a text", f"; {lengths.truncated * 100:.1f} % truncated at {found.recipe.max_tokens}"
    yield (
        "tokens",
        (
            f"of {kind} {lengths.mean:.1f} on average; half have up to {lengths.p50}, 95 % up to "
            f"{lengths.p95}, the longest {lengths.longest}{cut}"
        ),
    )
    yield from (("", line) for line in _histogram(lengths))
    yield (
        "padding",
        (
            f"batches of {PADDED_BATCH} in input order, padded to the longest, would compute "
            f"{lengths.padded:.2f} times these tokens"
        ),
    )


def _histogram(lengths: Tokens) -> Iterator[str]:
    """A line for each power of two, from the first to the last that has any."""
    parts: dict[int, float] = {}
    for bound, part in lengths.histogram.items():
        power = 1 << (bound - 1).bit_length()
        parts[power] = parts.get(power, 0.0) + part
    first = next(power for power, part in parts.items() if part)
    most = max(parts.values())
    for power, part in parts.items():
        if power >= first:
            yield f"up to {power:>6,}  {part * 100:>4.0f} %  {'#' * round(BAR * part / most)}"


def _cost_lines(found: Forecast) -> Lines:
    rate, hours, cost = found.rate, found.hours, found.config.cost
    if rate.tokens_per_second is None:
        yield "time", "not estimated: set cost.tokens_per_second to what a replica on such a GPU computes"
    elif hours is not None:
        by = RATES[rate.by].format(rate.measured_tokens)
        yield (
            "time",
            f"{duration(3600 * hours)} of one replica, at {rate.tokens_per_second:,.0f} tokens/s: {by}",
        )
        if found.replicas and found.replicas > 1:
            spread = duration(3600 * hours / found.replicas)
            yield "", f"{spread} with {found.replicas} replicas, if none ever waits"
    if found.price is not None:
        yield (
            "price",
            (
                f"{_money(found.price)} {cost.currency}, at {_money(cost.price_per_hour or 0.0)} "
                f"{cost.currency} for a replica's hour; without what waits, starts and is stored"
            ),
        )
    elif hours is not None:
        yield "price", "not estimated: set cost.price_per_hour"


def _output_lines(found: Forecast) -> Lines:
    kind = f"{found.dimension:,} dimensions ({found.recipe.vector})"
    if found.new_rows is not None and found.shard_bytes is not None:
        carried = ", and what is carried" if any(each.carry for each in found.config.source.values()) else ""
        yield (
            "output",
            (
                f"{plural(len(found.todo.split_ids), 'new shard')}, about {plural(found.new_rows, 'row')} of "
                f"{kind}: {byte_size(found.shard_bytes)}{carried}"
            ),
        )
    yield "payload", f"{byte_size(found.payload_bytes)} of the largest split between two stages"


def _money(amount: float) -> str:
    """With two places, or two figures where it is less than one."""
    return f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.2g}"


def status(arguments: Namespace) -> Said:
    found = standing(_dataset(arguments))
    if arguments.json:
        show(arguments, found.fields())
    else:
        show_lines(f"{found.output}: {_state(found)}", _standing_lines(found))
    return ExitCode.DONE, ""


def _dataset(arguments: Namespace) -> Dataset:
    """The dataset that a config writes, or the one at a folder or URL."""
    where = arguments.config
    if "://" not in where and not Path(where).exists():
        raise ConfigError("is neither a config nor a dataset's folder", where, hint="check the path")
    if Path(where).is_file():
        return Dataset.of(load_config(where, arguments.set, arguments.run_date))
    if arguments.set or arguments.run_date:
        hint = "drop it, or name the config instead of the dataset"
        raise ConfigError("means nothing to a dataset", "--set, --run-date", where, hint)
    dataset = Dataset(verify.root(where))
    if dataset.identity() is None:
        hint = "name the folder that has dataset.json, or a config"
        raise ConfigError("there is no dataset here", dataset.layout.root, hint=hint)
    return dataset


def _state(found: Standing) -> str:
    """The state, and no more than is known of it."""
    newest, silent = (found.attempts or [{}])[-1], found.silent_seconds
    if found.state == "stopped":
        return f"not complete; the last attempt ended with exit {newest['code']}"
    if found.state == "running" and silent is not None:
        return f"running, it seems: the last sign of life was {duration(silent)} ago"
    if found.state == "silent":
        since = f"since {_time(found.last_sign)}, {duration(silent)}" if silent is not None else "ever"
        return f"no sign of life {since}: killed, or at a split that takes longer"
    return found.state if found.state != "planned" else "planned; no attempt yet"


def _standing_lines(found: Standing) -> Lines:
    if found.figures is None:
        return
    figures = found.figures
    share = f" ({100 * found.done / found.splits:.1f} %)" if found.splits else ""
    yield "splits", f"{found.done:,} of {found.splits:,} done{share}, {found.pending:,} pending"
    yield "rows", f"{figures['rows']:,} embedded, of {figures['tokens']:,} tokens"
    if reasons := found.reject_reasons:
        told = ", ".join(f"{printable(reason, 40)} {rows:,}" for reason, rows in reasons.items())
        yield "rejects", f"{figures['rejects']:,}: {told}"
    yield from _failed_lines(dict(found.failed_files or {}))
    if found.last_shard:
        ago = duration(max(0.0, (found.now - found.last_shard).total_seconds()))
        yield "last shard", f"{_time(found.last_shard)}, {ago} ago"
    if found.rate and found.state in ("running", "silent"):
        span = duration(found.rate.seconds)
        yield (
            "rate",
            (
                f"{found.rate.rows_per_second:,.1f} rows/s, {found.rate.splits_per_minute:,.1f} splits/min "
                f"over the {span} up to it (at most {RECENT_MINUTES:.0f} min)"
            ),
        )
    if found.eta_seconds is not None:
        at = _time(found.now + datetime.timedelta(seconds=found.eta_seconds))
        yield "left", f"about {duration(found.eta_seconds)}, until {at}, if it goes on so"
    for number, attempt in enumerate(list(reversed(found.attempts))[:MOST_SHOWN]):
        last = number == 0 and found.state in ("running", "silent")
        yield "" if number else "attempts", f"{_attempt(attempt)}{'' if last else _ending(attempt)}"
    if len(found.attempts) > MOST_SHOWN:
        yield "", f"and {len(found.attempts) - MOST_SHOWN:,} older ones"


def _attempt(attempt: Attempt) -> str:
    host = printable(str(attempt.get("host")), 60)
    started = _time(datetime.datetime.fromisoformat(attempt["started"]))
    return f"{attempt['attempt']}, on {host}, process {attempt.get('pid')}, since {started}"


def _ending(attempt: Attempt) -> str:
    if "code" not in attempt:
        return "; left no ending"
    ended = _time(datetime.datetime.fromisoformat(attempt["ended"]))
    return f"; ended {ended}, exit {attempt['code']}: {printable(attempt['reason'], 300)}"


def _time(moment: datetime.datetime | None) -> str:
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "ever"


def report(arguments: Namespace) -> Said:
    """The report of what is there now, complete or not, as a local file; the dataset's own stays as it is."""
    from pipeline.operate import report as pages  # noqa: PLC0415  (what draws takes 60 ms, of each command's start)

    job = load_config(arguments.config, arguments.set, arguments.run_date)
    dataset = Dataset.of(job)
    found = dataset.plan()
    if found is None:
        raise MissingError("there is no dataset here", job.output.path, hint="run the config first")
    frozen = Plan.from_bytes(found, dataset.layout.plan)
    ending, records = commit.standing(dataset, frozen)
    about = ending.code, ending.reason, ending.summary
    subject = pages.Subject(job, dataset, frozen, *about, records)
    Path(arguments.to).write_bytes(pages.page(subject, datetime.datetime.now(datetime.UTC)))
    show(arguments, {"output": dataset.layout.root, "state": ending.reason, "report": arguments.to})
    return ExitCode.DONE, ""
