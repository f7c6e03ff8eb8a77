"""Divides rows of numbers among files on local disk, so that each part fits in memory."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]
PARTS = 256
IN_MEMORY = 128 << 20
"""The most bytes that are held before they go to disk."""


@dataclass
class Partitions:
    """Rows in up to `PARTS` parts; few rows stay in memory.

    kind: the type of a row, a structured one.
    """

    folder: Path
    kind: np.dtype[Any]
    _held: list[tuple[Rows, npt.NDArray[np.int64]]] = field(default_factory=list)
    _bytes: int = 0

    def add(self, rows: Rows, parts: npt.NDArray[np.integer[Any]]) -> None:
        """Adds rows, each to the part of its number."""
        self._held.append((rows, parts.astype(np.int64) % PARTS))
        self._bytes += rows.nbytes
        if self._bytes >= IN_MEMORY:
            self._spill()

    def __iter__(self) -> Iterator[Rows]:
        """Yields the rows of each part that has any, in the order in which they were added."""
        self._spill()
        for part in range(PARTS):
            if (file := self._file(part)).exists():
                yield np.fromfile(file, self.kind)

    def _spill(self) -> None:
        """Appends what is held to the files of the parts."""
        if not self._held:
            return
        rows = np.concatenate([rows for rows, _ in self._held])
        parts = np.concatenate([parts for _, parts in self._held])
        order = np.argsort(parts, kind="stable")
        edges = np.searchsorted(parts[order], np.arange(PARTS + 1))
        for part in np.flatnonzero(np.diff(edges)).tolist():
            with self._file(part).open("ab") as file:
                rows[order[edges[part] : edges[part + 1]]].tofile(file)
        self._held, self._bytes = [], 0

    def _file(self, part: int) -> Path:
        return self.folder / f"{part:03d}"


@contextmanager
def partitions(kind: np.dtype[Any]) -> Iterator[Partitions]:
    """Provides empty partitions, and removes their files at the end."""
    with tempfile.TemporaryDirectory(prefix="changes-") as folder:
        yield Partitions(Path(folder), kind)
