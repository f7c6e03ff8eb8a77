"""Makes the corpora of docs/reading.md: articles, and docstrings of known packages."""

import datetime
import itertools
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.docstrings import docstrings

PACKAGES = ("asyncio", "email", "importlib", "logging", "xml")
THINGS = (
    "a violin in the concert hall", "the old stone bridge", "𐍈 bread from the village bakery",
    "the night train to the coast", "a hen and her chickens", "the money of the central bank",
)  # fmt: skip
REMARKS = (
    "was what everybody talked about", "is older than anybody thought", "will be gone by next summer",
    "costs more than it did", "has never been photographed before",
)  # fmt: skip
UNTITLED = range(20, 30)
"""Articles without a body, which fill a split: its shard has no rows."""
SCHEMA = pa.schema(
    [
        ("article_id", pa.int64()),
        ("body", pa.string()),
        ("language", pa.string()),
        ("published", pa.timestamp("us", "UTC")),
        ("edited", pa.timestamp("us")),
        ("author", pa.struct([("name", pa.string()), ("roles", pa.list_(pa.string()))])),
    ]
)


def articles() -> list[dict[str, Any]]:
    """Returns 60 articles of one to four sentences; some have letters beyond 16 bits, ten have no body."""
    start = datetime.datetime(2026, 11, 1, 12, 30)
    pairs = itertools.islice(itertools.cycle(itertools.product(THINGS, REMARKS)), 60)
    return [
        {
            "article_id": number,
            "body": None if number in UNTITLED else " ".join([f"{thing} {remark}."] * (1 + number // 16)),
            "language": "en",
            "published": (start + datetime.timedelta(hours=number)).replace(tzinfo=datetime.UTC),
            "edited": start + datetime.timedelta(days=number),
            "author": {"name": f"writer {number % 4}", "roles": ["editor"] * (number % 3)},
        }
        for number, (thing, remark) in enumerate(pairs)
    ]


def write_articles(folder: Path, count: int = 60) -> None:
    """Writes the first `count` articles as Parquet files of twenty."""
    folder.mkdir(exist_ok=True)
    rows = articles()[:count]
    for start in range(0, count, 20):
        pq.write_table(
            pa.Table.from_pylist(rows[start : start + 20], SCHEMA), folder / f"{start:02d}.parquet"
        )


def write_docstrings(folder: Path) -> None:
    """Writes the docstrings of `PACKAGES`, the part of the demo's corpus that the page's classifier needs."""
    folder.mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))
    rows = [row for row in docstrings(library) if row["module"].split(".")[0] in PACKAGES]
    pq.write_table(pa.Table.from_pylist(rows), folder / "docstrings.parquet")
