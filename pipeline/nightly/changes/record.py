"""Defines what is recorded of changes: each part in `_counts.json`, with the sums over all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline import parsing, schema
from pipeline.dataset.layout import ChangesLayout
from pipeline.errors import DamagedError, MissingError
from pipeline.storage import Storage

CHANGES = ("added", "updated", "deleted")
ADDED, UPDATED, DELETED = range(3)
FACTS = ("rows", "rows_before", "shared", "rows_read", "ids_read")


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One file of changes: its rows by change, its size, and the BLAKE2b-128 of its bytes."""

    name: str
    counts: Mapping[str, int]
    file_bytes: int
    digest: str

    def fields(self) -> dict[str, Any]:
        """Returns its fields as they are in the file."""
        return {"name": self.name, **self.counts, "file_bytes": self.file_bytes, "digest": self.digest}


@dataclass(frozen=True)
class Changes:
    """The changes of a dataset since another: their folder, and their counts.

    rows, rows_before: the rows of the dataset, and of the one before.
    shared: how many shards both have.  rows_read: how many rows of all others were read, and ids_read: of how
    many rows of shared ones the ids were.
    parts: the files; none if nothing was written.
    """

    folder: str
    added: int
    updated: int
    deleted: int
    rows: int
    rows_before: int
    shared: int
    rows_read: int
    ids_read: int
    parts: Sequence[PartRecord] = ()

    @property
    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in CHANGES}

    @property
    def figures(self) -> dict[str, int]:
        """Returns what is counted, without the parts."""
        return self.counts | {name: getattr(self, name) for name in FACTS}

    def to_bytes(self) -> bytes:
        """Writes the bytes of `_counts.json`."""
        parts = [part.fields() for part in self.parts]
        content = {"format_version": schema.FORMAT_VERSION, **self.figures, "parts": parts}
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, layout: ChangesLayout) -> Self:
        """Reads a `_counts.json`.

        Raises:
            DamagedError: it can't be read.
        """
        content = parsing.json_object(data, layout.counts)
        with parsing.damage(layout.counts):
            parts = tuple(
                PartRecord(
                    str(each["name"]),
                    {name: int(each[name]) for name in CHANGES},
                    int(each["file_bytes"]),
                    str(each["digest"]),
                )
                for each in content["parts"]
            )
            return cls(layout.root, **{name: int(content[name]) for name in (*CHANGES, *FACTS)}, parts=parts)


def made_before(storage: Storage, layout: ChangesLayout) -> Changes | None:
    """Returns changes that are complete; None if they are not, or not at all.

    Raises:
        DamagedError: they are complete, and their record can't be read.
    """
    if not storage.exists(layout.success):
        return None
    try:
        return Changes.from_bytes(storage.read(layout.counts), layout)
    except MissingError:
        hint = "remove the folder of these changes, and run again"
        raise DamagedError("is complete, and lacks its counts", layout.root, hint=hint) from None
