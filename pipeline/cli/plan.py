"""The command `plan`: shows what a run would do, and roughly what it would cost."""

from argparse import Namespace
from collections.abc import Iterator

from pipeline.cli.arguments import config_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, Lines, failed_lines, show, show_lines, write
from pipeline.errors import ExitCode
from pipeline.estimate.estimate import Forecast, Reuse, forecast, sample_fields
from pipeline.estimate.legibility import Legibility
from pipeline.estimate.token_lengths import PADDED_BATCH, Tokens
from pipeline.humanize import bar, duration, plural, share, size
from pipeline.model import outputs

BAR = 40
RATES = {
    "config": "as cost.tokens_per_second says",
    "this dataset": "measured over {:,} tokens of this dataset",
    "base": "measured over {:,} tokens of the base",
    "guess": "a rough guess; set cost.tokens_per_second, or run a part",
}


def run(arguments: Namespace) -> CommandResult:
    found = forecast(config_of(arguments))
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
    yield "source", f"{plural(found.files.num_rows, 'file')}, {size(stored)}; {_rows(found)}"
    for name, version in found.made.snapshots.items():
        yield "table", f"{name}: {found.config.source[name].format} {version}"
    if found.made.not_read:
        yield "not read", found.made.not_read
    yield from failed_lines(found.made.failed_files)
    reading = (
        f", in {plural(found.scans, 'scan')}; {size(found.pending.stored_bytes)} to read" if pending else ""
    )
    yield "splits", f"{len(found.made.split_ids):,}, of them {pending:,} pending{reading}"
    if found.reuse:
        yield "reuse", _reuse(found.reuse)
    if not len(found.todo.split_ids):
        yield "embed", "nothing is left to embed"
        return
    yield "embed", _work(found)
    sample = sample_fields(found.sample, found.lengths, found.legibility)
    yield (
        "sample",
        (
            f"{plural(sample['texts'], 'text')} from {plural(sample['stretches'], 'place')} in "
            f"{plural(sample['files'], 'file')}, {size(sample['text_bytes'])} of text; "
            f"{size(sample['read_bytes'])} read"
        ),
    )
    if found.legibility.unknown_fraction:
        yield "unknown", _unknown(found.legibility)
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


def _unknown(found: Legibility) -> str:
    return f"{share(found.unknown_fraction, 1)} of the tokens are unknown to the model: {found.by_script()}"


def _length_lines(lengths: Tokens, found: Forecast) -> Lines:
    kind, cut = "a window", ""
    if found.recipe.long_text == "truncate":
        kind, cut = "a text", f"; {share(lengths.truncated, 1)} truncated at {found.recipe.max_tokens}"
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
    """Yields a line for each power of two, from the first to the last that any length falls into."""
    parts: dict[int, float] = {}
    for bound, part in lengths.histogram.items():
        power = 1 << (bound - 1).bit_length()
        parts[power] = parts.get(power, 0.0) + part
    first = next(power for power, part in parts.items() if part)
    most = max(parts.values())
    for power, part in parts.items():
        if power >= first:
            yield f"up to {power:>6,}  {share(part, 1):>8}  {bar(part, most, BAR)}"


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
            yield "", f"{spread} with {found.replicas} replicas, if none of them ever waits"
    if found.price is not None:
        yield (
            "price",
            (
                f"{_money(found.price)} {cost.currency}, at {_money(cost.price_per_hour or 0.0)} "
                f"{cost.currency} for a replica's hour; excludes waiting, starting and storage"
            ),
        )
    elif hours is not None:
        yield "price", "not estimated: set cost.price_per_hour"


def _output_lines(found: Forecast) -> Lines:
    if found.new_rows is not None and found.shard_bytes is not None:
        carried = ", and carried columns" if any(each.carry for each in found.config.source.values()) else ""
        yield (
            "output",
            (
                f"{plural(len(found.todo.split_ids), 'new shard')}, about {plural(found.new_rows, 'row')} of "
                f"{outputs.told(found.outputs)}: {size(found.shard_bytes)}{carried}"
            ),
        )
    yield "payload", f"{size(found.payload_bytes)} of the largest split between two stages"


def _money(amount: float) -> str:
    """Formats an amount with two decimal places, or two significant digits if it is less than one."""
    return f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.2g}"


COMMAND = Command(
    name="plan",
    help="show what a run would do, and roughly what it would cost; write nothing",
    run=run,
    examples=(
        ("plan configs/demo.yaml", "what would run, and roughly what it would cost"),
        ("plan configs/demo.yaml --set cost.price_per_hour=0.40", "with a price"),
        ("plan configs/demo.yaml --json", "all figures, for a script"),
    ),
)
