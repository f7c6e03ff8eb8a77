"""Writes the sections about a dataset's key figures, its rows, its attempts and its config."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from pipeline.errors import LONGEST, ExitCode
from pipeline.humanize import count, duration, plural, short, size
from pipeline.operate.report import figures
from pipeline.operate.report.figures import SourceCounts, Throughput
from pipeline.operate.report.markup import beginning, element, join
from pipeline.operate.report.parts import LONGEST_REASON, NOT_KNOWN, NOTHING, section, table
from pipeline.operate.report.subject import Subject
from pipeline.sanitize import first_line, redact

MAX_ATTEMPTS = 10
LONGEST_CONFIG = 50_000


def headline(subject: Subject) -> Markup:
    """Returns the dataset's name, its state, and the figures that everybody asks for first."""
    summary, flow = subject.summary, subject.throughput
    word, kind = _verdict(subject)
    figures_ = [
        ("rows embedded", _large(summary["rows"])),
        ("rows rejected", _large(summary["rejects"])),
        ("source files", _large(summary["files"])),
        ("tokens", short(summary["tokens"])),
        ("rows a second", short(flow.rows / flow.seconds) if flow else NOT_KNOWN),
        ("at work", duration(flow.seconds) if flow else NOT_KNOWN),
        ("shards", _large(summary["shards"])),
        ("stored", size(summary["file_bytes"])),
    ]
    model = subject.config.model.name
    return element(
        "header",
        element("p", "Embedding report", class_="eyebrow"),
        element("h1", subject.dataset.layout.root.rpartition("/")[2]),
        element("p", element("strong", word, class_=f"verdict {kind}"), _when(flow), class_="status"),
        element("p", first_line(subject.reason, LONGEST), class_="reason") if kind == "bad" else NOTHING,
        element("p", "Model ", element("b", model), " · ", element("span", subject.dataset.layout.root)),
        element(
            "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in figures_)
        ),
    )


def _verdict(subject: Subject) -> tuple[str, str]:
    """Returns the state of the dataset in a word or two, and its CSS class."""
    if not subject.summary["complete"]:
        done = subject.summary["shards"] < subject.summary["splits"]
        return ("Unfinished" if done and subject.code is ExitCode.RETRYABLE else "Not complete"), "bad"
    failed = len(subject.failed_files)
    return (f"Complete, but for {plural(failed, 'failed file')}", "warn") if failed else ("Complete", "good")


def _when(flow: Throughput | None) -> str:
    if flow is None:
        return ""
    began, ended = _moment(flow.began), _moment(flow.ended)
    return f" {began} UTC" if began == ended else f" {began} to {ended.removeprefix(began[:11])} UTC"


def _large(number: int) -> str:
    return count(number) if number < 1_000_000 else short(number)


def reconciliation(subject: Subject) -> Markup:
    """Returns the section that accounts for every row of each source."""
    names = list(subject.config.source)
    counted = figures.by_source(subject.plan, subject.records, subject.failed_files, names)
    embedded, rejected = (sum(getattr(each, name) for each in counted) for name in ("embedded", "rejected"))
    rows = subject.summary["rows"]
    windows = f" In windows, they are {count(rows)} rows of the shards." if rows != embedded else ""
    sentence = (
        f"{count(embedded + rejected)} rows were read: {count(embedded)} embedded + {count(rejected)} "
        f"rejected.{windows} Planned rows are those of the files' own counts; files that are cut by bytes "
        "must be read without gap or overlap instead. Both are checked before a dataset is complete."
    )
    if subject.plan.not_read:
        sentence += f" Not read: {subject.plan.not_read}."
    whole = subject.summary["complete"] and not subject.failed_files
    heads = ("source", "files", "planned rows", "embedded", "rejected", "missing", "failed files")
    return section(
        "Every row accounted for" if whole else "What became of the rows",
        sentence,
        table(heads, [_source_line(each) for each in counted], numbers=heads[1:]),
        _failed_files(subject.failed_files),
    )


def _source_line(counts: SourceCounts) -> Sequence[object]:
    found = counts.embedded + counts.rejected
    planned = "by bytes" if counts.planned is None else count(counts.planned)
    missing = NOT_KNOWN if counts.planned is None else count(counts.planned - found)
    return (
        counts.name, count(counts.files), planned, count(counts.embedded), count(counts.rejected), missing,
        count(counts.failed_files),
    )  # fmt: skip


def _failed_files(failed: Mapping[str, str]) -> Markup:
    if not failed:
        return NOTHING
    rows = [(file, beginning(first_line(reason), LONGEST_REASON)) for file, reason in failed.items()]
    return join(element("h3", plural(len(failed), "failed file")), table(("file", "reason"), rows))


def attempts(subject: Subject) -> Markup:
    """Returns the section of the attempts: when each worked, where, and how it ended."""
    made = _by_attempt(subject)
    shown = subject.attempts[-MAX_ATTEMPTS:]
    lines = [
        (
            each["attempt"],
            each["started"].replace("T", " ").removesuffix("+00:00"),
            each["host"],
            *map(count, made.get(each["attempt"], (0, 0))),
            _ended(each),
        )
        for each in shown
    ]
    heads = ("attempt", "started (UTC)", "host", "shards", "rows", "how it ended")
    sentence = f"{plural(len(subject.attempts), 'attempt')} at this dataset."
    if len(subject.attempts) > MAX_ATTEMPTS:
        sentence += f" The last {MAX_ATTEMPTS} are shown."
    return section("Attempts", sentence, table(heads, lines, numbers=heads[3:5]))


def _by_attempt(subject: Subject) -> dict[str, tuple[int, int]]:
    """Returns the numbers of shards and rows that each attempt made."""
    sums = subject.made.group_by("attempt").aggregate([([], "count_all"), ("rows", "sum")])
    columns = (sums[name].to_pylist() for name in ("attempt", "count_all", "rows_sum"))
    return {name: (shards_, rows) for name, shards_, rows in zip(*columns, strict=True)}


def _ended(attempt: Mapping[str, Any]) -> str:
    if "code" not in attempt:
        return "is running, or was killed"
    return f"exit {attempt['code']}: {beginning(first_line(attempt['reason']), LONGEST_REASON)}"


def made_with(subject: Subject) -> Markup:
    """Returns the section of the config, the digests and the versions."""
    values = subject.config.model_dump(mode="json")
    written = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    known = subject.identity
    facts = {
        "dataset digest": known.get("dataset_digest"),
        "vector digest": known.get("vector_digest"),
        "weights": known.get("model.weights"),
        "tokenizer": known.get("model.tokenizer"),
        "dtype": known.get("model.dtype"),
    } | dict(subject.summary["run"].get("versions", {}))
    lines = [
        element("div", element("dt", name), element("dd", value)) for name, value in facts.items() if value
    ]
    return section(
        "What it was made with",
        "",
        element("dl", *lines, class_="facts"),
        element(
            "details",
            element("summary", "The whole config, defaults included"),
            element("pre", redact(written)[:LONGEST_CONFIG]),
        ),
    )


def _moment(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M}"
