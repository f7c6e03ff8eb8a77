"""Draws the live display: figures as tables and bars, for terminals of 60 columns or more."""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.humanize import clock, plural
from pipeline.operate.progress import log_line
from pipeline.operate.progress.counts import Rate, Snapshot
from pipeline.operate.progress.stages import BUSY

ROOMY, WIDE = 78, 104
"""Columns from which on the stages have bars, and from which on they show the seconds of a split."""
WIDEST = 130
NAMES = {"read": "read, tokenise", "encode": "encode", "write": "write"}


def display(moment: Snapshot, width: int) -> RenderableType:
    """Returns the display of a moment, `width` columns wide."""
    width = min(width, WIDEST)
    # An empty line separates it from the log above.
    return Group("", _whole(moment, width), _speeds(moment), _notes(moment, width), _stages(moment, width))


def _whole(moment: Snapshot, width: int) -> RenderableType:
    """Returns the bar of all splits."""
    source = log_line.source_done(moment) if width >= ROOMY else ""
    splits = f"{moment.done:,}/{moment.total.splits:,} splits"
    parts = [log_line.percent(moment), splits, source, f"ETA {clock(moment.eta)}"]
    table = Table.grid(padding=(0, 2), expand=False)
    shown = [Text(part, "bold" if part == parts[0] else "") for part in parts if part]
    bar = max(10, width - sum(len(each) + 2 for each in shown) - 1)
    table.add_row(_bar(moment.fraction, bar, "cyan"), *shown)
    return table


def _speeds(moment: Snapshot) -> RenderableType:
    table = _grid("left", "right", "right", "right")
    for name, count, rate in (
        ("rows", moment.rows, moment.row_rate), ("tokens", moment.tokens, moment.token_rate)
    ):  # fmt: skip
        table.add_row(name, f"{count:,}", *_rate(rate))
    return table


def _rate(rate: Rate) -> tuple[str, str]:
    return f"{rate.now:,.0f}/s now", f"{rate.overall:,.0f}/s overall"


def _notes(moment: Snapshot, width: int) -> RenderableType:
    """Returns the counts of rejects and failures, coloured if not zero, and of splits that others made."""
    notes = Text(overflow="ellipsis", no_wrap=True)
    notes.append(f"{moment.rejects:,} rejects", "yellow" if moment.rejects else "")
    notes.append(f"   {plural(moment.failed, 'failed split')}", "bold red" if moment.failed else "")
    if moment.total.before:
        notes.append(f"   {moment.total.before:,} before", "dim")
    if moment.taken_over:
        notes.append(f"   {moment.taken_over:,} taken over", "dim")
    return notes.append(f"   {clock(moment.seconds)} so far" if width >= ROOMY else "", "dim")


def _stages(moment: Snapshot, width: int) -> RenderableType:
    if not moment.stages:
        return Text(log_line.stages(moment), "dim")
    roomy, wide = width >= ROOMY, width >= WIDE
    columns = ["left", "right", *(["left"] if roomy else []), "right", *(["right"] if wide else []), "left"]
    table = _grid(*columns)
    for line in moment.stages:
        busy = line.busy or 0.0
        bar = [_bar(busy, 16, "green" if busy >= BUSY else "cyan")] if roomy else []
        takes = [Text(_takes(moment, line.stage), "dim")] if wide else []
        # Waiting matters most in the encoder, the expensive stage.
        waits = Text(line.waits, "yellow" if line.stage == "encode" else "")
        share = "" if line.busy is None else f"{log_line.share(busy)} busy"
        table.add_row(NAMES[line.stage], f"{line.at_work} at work", *bar, share, *takes, waits)
    return table


def _bar(share: float, width: int, style: str) -> ProgressBar:
    return ProgressBar(1.0, share, width=width, complete_style=style, finished_style="green")


def _takes(moment: Snapshot, stage: str) -> str:
    """Returns the seconds that a split takes in a stage."""
    steps = {"read": ("read", "tokenize")}.get(stage, (stage,))
    if not moment.split_seconds:
        return ""
    return " + ".join(f"{moment.split_seconds[step]:.2f}" for step in steps) + " s a split"


def _grid(*justify: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in justify:
        table.add_column(justify=each, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    return table
