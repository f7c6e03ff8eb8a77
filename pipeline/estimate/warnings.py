"""Warns before a run of facts worth knowing, each of a fixed kind. Pure, on plan and sample.

kinds: no_rows, unread, empty_texts, invalid_rows, dialect, unknown_tokens, alike, bad_ids, truncated,
unsplittable, tiny_files, large_split, no_id_column, idle_replicas, plain_http, tokenizer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.sections import Config
from pipeline.estimate.legibility import Legibility
from pipeline.estimate.sampling import Stratum
from pipeline.estimate.token_lengths import Tokens
from pipeline.humanize import and_more
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.plan.plan import Plan

MOSTLY_EMPTY = 0.5
MANY_INVALID = 0.1
MANY_UNKNOWN = 0.1
MANY_ALIKE = 0.1
INVALID = {
    "invalid_utf8": "set source.encoding to the encoding of the files, such as gbk or cp1252",
    "invalid_csv": "check the dialect in csv (delimiter, quote, escape)",
    "invalid_json": "check the format: each line must be an object",
}
"""Reasons of rejects that may say that the config does not fit the files, with what to do."""
MANY_TRUNCATED = 0.1
MANY_SPLITS_OF_A_SCAN = 8
MANY_FILES, TINY_FILE = 10_000, 100_000
LARGE_SPLIT, LARGE_SHARE, LARGE_BYTES = 8, 0.1, 1 << 20
"""A split is large if it exceeds this many times the median, this fraction of all, and this many bytes."""


@dataclass(frozen=True)
class PlanWarning:
    """A fact worth knowing, in a sentence that ends with what to do."""

    kind: str
    text: str


PlanWarnings = list[PlanWarning]


def no_rows(plan: Plan, config: Config) -> PlanWarnings:
    if plan.has_rows or config.quality.allow_empty:
        return []
    text = "the source has no rows, so a run ends with exit code 3; if that is right, set quality.allow_empty"
    return [PlanWarning("no_rows", text)]


def unread(strata: Sequence[Stratum]) -> PlanWarnings:
    unread = [each for stratum in strata for each in stratum.unread]
    more = and_more(len(unread) - 1)
    return [PlanWarning("unread", f"a file could not be sampled: {unread[0]}{more}")] if unread else []


def empty_texts(strata: Sequence[Stratum]) -> PlanWarnings:
    found = []
    for stratum in strata:
        empty = sum(stratum.rejects[reason] for reason in ("null", "blank"))
        if empty > MOSTLY_EMPTY * stratum.documents:
            text = (
                f"source.{stratum.source}: {empty / stratum.documents:.0%} of the sampled texts are null or "
                "blank; is text_column the right one?"
            )
            found.append(PlanWarning("empty_texts", text))
    return found


def invalid_rows(strata: Sequence[Stratum]) -> PlanWarnings:
    found = []
    for stratum in strata:
        for reason, hint in INVALID.items():
            if stratum.rejects[reason] > MANY_INVALID * stratum.documents:
                part = stratum.rejects[reason] / stratum.documents
                text = f"source.{stratum.source}: {part:.0%} of the sampled rows are {reason}; {hint}"
                found.append(PlanWarning("invalid_rows", text))
    return found


def dialect(clues: Mapping[str, str]) -> PlanWarnings:
    """Warns of CSV files that look as if they were written in another dialect than told."""
    told: dict[str, list[str]] = {}
    for file, clue in clues.items():
        told.setdefault(clue.partition("; see ")[2], []).append(f"{file} {clue}")
    return [PlanWarning("dialect", f"{lines[0]}{and_more(len(lines) - 1)}") for lines in told.values()]


def unknown_tokens(found: Legibility) -> PlanWarnings:
    if found.unknown_fraction < MANY_UNKNOWN:
        return []
    text = (
        f"the model does not know {found.unknown_fraction:.0%} of the sampled tokens ({found.by_script()}): "
        "texts of unknown tokens have nearly the same vector; name a model that has their script"
    )
    return [PlanWarning("unknown_tokens", text)]


def alike(found: Legibility) -> PlanWarnings:
    if found.alike < MANY_ALIKE * max(found.texts, 1):
        return []
    text = (
        f"{found.alike} of {found.texts} different sampled texts have the very tokens of another one, and so "
        "its vector: the model can't tell them apart"
    )
    return [PlanWarning("alike", text)]


def bad_ids(strata: Sequence[Stratum]) -> PlanWarnings:
    return [
        PlanWarning(
            "bad_ids",
            f"source.{each.source}: of {each.texts} sampled rows {each.null_ids} have no id, and "
            f"{each.repeated_ids} the id of another row; see quality.unique_ids",
        )
        for each in strata
        if each.null_ids or each.repeated_ids
    ]


def truncated(tokens: Tokens | None, recipe: EmbeddingSpec) -> PlanWarnings:
    if tokens is None or tokens.truncated < MANY_TRUNCATED or recipe.long_text != "truncate":
        return []
    text = (
        f"{tokens.truncated:.0%} of the texts are longer than {recipe.max_tokens} tokens, and only their "
        "start is embedded; see model.long_text (chunks, mean_of_chunks) and model.max_tokens"
    )
    return [PlanWarning("truncated", text)]


def unsplittable(pieces: pa.Table) -> PlanWarnings:
    """Warns of files of which one task reads many splits, one after the other."""
    scans = pieces.group_by("scan").aggregate(
        [("split", "count_distinct"), ("file", "min"), ("source", "min")]
    )
    long = scans.filter(pc.greater(scans.column("split_count_distinct"), MANY_SPLITS_OF_A_SCAN))
    if not long.num_rows:
        return []
    worst = long.sort_by([("split_count_distinct", "descending")]).slice(0, 1).to_pylist()[0]
    more = and_more(long.num_rows - 1)
    text = (
        f"{worst['source_min']}/{worst['file_min']}{more}: one task reads its "
        f"{worst['split_count_distinct']} splits one after the other, since it can't be cut; use more "
        "files, or smaller row groups, to read them at the same time"
    )
    return [PlanWarning("unsplittable", text)]


def tiny_files(files: pa.Table) -> PlanWarnings:
    count = files.num_rows
    mean = (pc.mean(files.column("size")).as_py() or 0) if count else 0
    if count < MANY_FILES or mean >= TINY_FILE:
        return []
    text = (
        f"{count:,} files of {mean / 1000:.0f} kB on average: each costs several requests when planning and "
        "when reading; larger files are faster"
    )
    return [PlanWarning("tiny_files", text)]


def large_split(pieces: pa.Table) -> PlanWarnings:
    sums = pieces.group_by("split").aggregate([("stored_bytes", "sum"), ("source", "min"), ("file", "min")])
    stored = np.sort(sums.column("stored_bytes_sum").to_numpy())
    if len(stored) < 2:
        return []
    largest, median = int(stored[-1]), int(stored[(len(stored) - 1) // 2])
    if largest < max(LARGE_SPLIT * median, LARGE_SHARE * stored.sum(), LARGE_BYTES):
        return []
    row = sums.sort_by([("stored_bytes_sum", "descending")]).slice(0, 1).to_pylist()[0]
    text = (
        f"one split of {row['source_min']}/{row['file_min']} holds {largest / stored.sum():.0%} of what is "
        "to be read, so the run may wait for it at the end; see output.rows_per_shard and max_split_bytes"
    )
    return [PlanWarning("large_split", text)]


def without_id(config: Config) -> PlanWarnings:
    names = [
        name for name, source in config.source.items() if source.id_column is None and source.has_columns
    ]
    text = (
        f"no id_column in source.{', source.'.join(names)}: rows are named by file and place, so a row that "
        "moves gets another id"
    )
    return [PlanWarning("no_id_column", text)] if names else []


def plain_http(config: Config) -> PlanWarnings:
    """Warns of endpoints without TLS, except those on this machine."""
    options = {f"source.{name}": source.options for name, source in config.source.items()}
    options["output"] = config.output.options
    found = [
        f"{name}.options.endpoint_url = {each.endpoint_url}"
        for name, each in options.items()
        if each.endpoint_url and each.endpoint_url.startswith("http://") and not _is_here(each.endpoint_url)
    ]
    text = f"{', '.join(found)}: others on the network can read and change all data, a Hub's token too; use https://"
    return [PlanWarning("plain_http", text)] if found else []


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def tokenizer(differences: Sequence[object]) -> PlanWarnings:
    """Warns of each reason why `AutoTokenizer` gives other ids, with its example."""
    return [
        PlanWarning("tokenizer", f"the ids are not those of AutoTokenizer: {each}") for each in differences
    ]


def idle_replicas(config: Config, splits: int) -> PlanWarnings:
    replicas = max(config.compute.min_replicas, config.compute.max_replicas or 0)
    if not splits or replicas <= splits:
        return []
    text = (
        f"{replicas} replicas for {splits} splits: some will have nothing to do; use fewer, or smaller "
        "splits (output.rows_per_shard, output.max_split_bytes)"
    )
    return [PlanWarning("idle_replicas", text)]
