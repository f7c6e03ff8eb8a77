"""Packs a scan into a row that travels between stages: its splits, as JSON in one cell."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from pipeline.plan.plan import Split
from pipeline.source.formats import Piece


def feed_row(scan: Sequence[Split]) -> dict[str, str]:
    """Returns the row for a scan's splits."""
    splits = [
        {"split_id": split_id, "pieces": [asdict(piece) for piece in pieces]} for split_id, pieces in scan
    ]
    return {"note": json.dumps({"splits": splits})}


def splits_of(row: pa.Table) -> list[Split]:
    """Returns the splits in a row that `feed_row` made."""
    splits = json.loads(row.column("note")[0].as_py())["splits"]
    return [(split["split_id"], [Piece(**piece) for piece in split["pieces"]]) for split in splits]
