"""Provides what tests of the report share: records, jobs without Ray, and pages as a browser reads them."""

import json
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.load import parse_config
from pipeline.dataset.commit import CommitRequest, commit
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult
from pipeline.dataset.identity import Identity
from pipeline.dataset.record import RECORD, Failure
from pipeline.driver import attempt, run
from pipeline.embed.job import Job as Told
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.plan.plan import Plan
from tests.flow import staged
from tests.records import NOTHING

Job = Callable[..., dict[str, Any]]
STARTED = "2026-11-25T12:00:00+00:00"
NOON = 1795608000.0
"""STARTED, in seconds since 1970."""


def record(**fields: Any) -> dict[str, Any]:
    """Makes a record of the manifest with ten rows; all else is as small as possible."""
    return NOTHING | {"split_id": "s", "attempt": "a", "rows": 10} | fields


def records(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([record(**row) for row in rows], schema=RECORD)


class Page(HTMLParser):
    """A page as a browser reads it: elements with their attributes, and texts by element."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, class_: str | None = None) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (class_ is None or class_ in (attributes.get("class") or "").split())
        ]


def embed(values: dict[str, Any], attempt: str = "attempt") -> tuple[Dataset, Plan, list[Failure]]:
    """Embeds all pending splits of a job, stage by stage and without Ray."""
    parsed = parse_config(values)
    model = checkpoint.resolve(parsed.model.name)
    identity, dataset = Identity.of(parsed, model), Dataset.of(parsed)
    frozen = run.frozen_plan(parsed, dataset, identity, model)
    told = {"attempt": attempt, "started": STARTED, "host": "here"}
    dataset.storage.put(dataset.layout.attempt(attempt), json.dumps(told).encode())
    digests = identity.vector_digest, model.tokenizer_digest
    recipe = EmbeddingSpec.of(model, parsed.model)
    job = Told(parsed, frozen.columns, recipe, identity.outputs, None, *digests, attempt)
    arrived = staged(frozen.pending(dataset.shards()), job)
    return dataset, frozen, [each for each in arrived if isinstance(each, Failure)]


def ended(values: dict[str, Any]) -> RunResult:
    """Does a complete run without Ray, and returns its ending."""
    dataset, frozen, failures = embed(values)
    parsed = parse_config(values)
    told = attempt.make_report(dataset, frozen, parsed)
    return commit(CommitRequest(dataset, frozen, failures, parsed.quality, {"attempt": "attempt"}, told))


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_bytes())


def rewrite(path: Path, **columns: Sequence[object]) -> None:
    table = pq.read_table(path)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table, path)


HOSTILE = "</script><img src=x onerror=alert(1)>\"'`<svg onload=alert(2)> & \u202etxet"


def hostile(job: Job, corpus: Path) -> dict[str, Any]:
    """A job whose texts, carried values, file names and errors all try to run a script."""
    for number in range(3):
        lines = [f"{HOSTILE} {row}" for row in range(18)] + [None, " "]
        rewrite(corpus / f"{number}.parquet", text=lines, topic=[f"{HOSTILE} {number}"] * 20)
    (corpus / "1.parquet").rename(corpus / "<img src=x onerror=alert(3)>.parquet")
    (corpus / "<script>alert(4)<script>.parquet").write_bytes(b"<script>alert(5)</script>" * 9)
    (corpus / "lines.txt").write_bytes(b"fine\n</script><script>alert(6)</script>\xff\n")
    source = job()["source"] | {"lines": {"path": f"{corpus}/lines.txt"}}
    return job(source=source)
