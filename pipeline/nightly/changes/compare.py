"""Compares fingerprints: which rows were added, updated and deleted, and which ids more than one row has.

Shapes: N fingerprints.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.nightly.changes.fingerprint import NEW, OLD
from pipeline.nightly.changes.record import ADDED, CHANGES, DELETED, UPDATED

Rows = npt.NDArray[Any]
CHANGED_ROW = np.dtype([("change", "u1"), ("shard", "<u4"), ("row", "<u4")])
"""A row that changed: its place is in the new dataset, of a deleted row in the old one."""
ID = ("id_first", "id_second", "chunk")


@dataclass(frozen=True, slots=True)
class Compared:
    """The rows that changed (`CHANGED_ROW`), and pairs of rows of one dataset that have one id, (K, 2)."""

    changed: Rows
    repeated: Rows


def compare(found: Rows, alike: bool) -> Compared:
    """Compares the fingerprints of all rows that have any of some ids.

    Args:
        found: fingerprints (`FINGERPRINT`), in any order.
        alike: whether rows of the two datasets can be equal; if not, those with one id count as updated.
    """
    ordered = found[np.lexsort([found[name] for name in ("row", "shard", "side", *reversed(ID))])]
    side = ordered["side"]
    same = np.ones(max(0, len(ordered) - 1), np.bool_)
    for name in ID:
        same &= ordered[name][1:] == ordered[name][:-1]
    paired = same & (side[:-1] == OLD) & (side[1:] == NEW)
    repeated = np.flatnonzero(same & ~paired)
    has_newer, has_older = np.append(paired, False), np.insert(paired, 0, False)
    if not len(ordered):
        has_newer = has_older = np.zeros(0, np.bool_)
    differs = np.zeros(len(ordered), np.bool_)
    differs[1:] = (ordered["content"][1:] != ordered["content"][:-1]).any(axis=1) | (not alike)
    changed = [
        _changed(ordered[(side == NEW) & ~has_older], ADDED),
        _changed(ordered[has_older & differs], UPDATED),
        _changed(ordered[(side == OLD) & ~has_newer], DELETED),
    ]
    pairs = np.stack([ordered[repeated], ordered[repeated + 1]], axis=1)
    return Compared(np.concatenate(changed), pairs)


def _changed(rows: Rows, change: int) -> Rows:
    found = np.zeros(len(rows), CHANGED_ROW)
    found["change"], found["shard"], found["row"] = change, rows["shard"], rows["row"]
    return found


def count(changed: Rows) -> dict[str, int]:
    """Returns how many rows were added, updated and deleted."""
    found = np.bincount(changed["change"], minlength=len(CHANGES))
    return dict(zip(CHANGES, found.tolist(), strict=True))
