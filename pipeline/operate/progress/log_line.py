"""Formats the progress of a run as one log line, and decides how often to log it."""

from pipeline.humanize import clock, size_of
from pipeline.operate.progress.counts import Snapshot

FIRST_SECONDS, MAX_SECONDS = 5.0, 60.0
SHARE = 0.1


def pause(seconds: float) -> float:
    """Returns the seconds until the next line, for a run of this age."""
    return min(MAX_SECONDS, max(FIRST_SECONDS, seconds * SHARE))


def standing(moment: Snapshot) -> str:
    """Formats all figures of a moment, as far as they are known."""
    rows, tokens = moment.row_rate, moment.token_rate
    said = [percent(moment), done(moment)]
    if rows.overall:
        said += [f"{rows.now:,.0f} rows/s", f"{tokens.now:,.0f} tokens/s"]
        said += [f"(overall {rows.overall:,.0f} and {tokens.overall:,.0f})"]
    said += [f"{moment.rejects:,} rejects", f"{moment.failed:,} failed", f"ETA {clock(moment.eta)}"]
    return "  ".join([*said, stages(moment)])


def ended(moment: Snapshot) -> str:
    """Formats the result of a run, with its overall rates."""
    said = [
        done(moment), f"{moment.row_rate.overall:,.0f} rows/s", f"{moment.token_rate.overall:,.0f} tokens/s",
        f"{moment.rejects:,} rejects", f"{moment.failed:,} failed", f"in {clock(moment.seconds)}",
    ]  # fmt: skip
    return "  ".join(said)


def percent(moment: Snapshot) -> str:
    """Formats the fraction that is done, rounded down: an unfinished run never shows 100 %."""
    return f"{int(moment.fraction * 100)}%"


def done(moment: Snapshot) -> str:
    """Formats how many splits are done, and how much of the source if that is known."""
    splits = f"{moment.done:,}/{moment.total.splits:,} splits"
    source = source_done(moment)
    return f"{splits}  {source}" if source else splits


def source_done(moment: Snapshot) -> str:
    """Formats how much of the source is done: `3,904/7,552 rows` or `1.2/3.4 GB`."""
    total = moment.total
    if total.unit == "rows":
        return f"{moment.amount:,.0f}/{total.amount:,} rows"
    if total.unit == "bytes":
        return size_of(moment.amount, total.amount)
    return ""


def stages(moment: Snapshot) -> str:
    """Formats how busy the stages are, and what the encoder, the expensive one, waits for."""
    if not moment.stages:
        return "ending" if moment.eta == 0 else "starting"
    said = []
    for line in moment.stages:
        waits = f" ({line.waits})" if line.stage == "encode" and line.waits else ""
        said.append(f"{line.stage} {share(line.busy)}{waits}")
    return "busy: " + ", ".join(said)


def share(busy: float | None) -> str:
    return "-" if busy is None else f"{busy:.0%}"
