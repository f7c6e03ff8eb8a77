"""Reads and writes LATEST.json, which names the dataset that readers follow."""

import dataclasses
import datetime
import json
from dataclasses import dataclass
from typing import Any, Self

from pipeline import parsing
from pipeline.dataset.dataset import Dataset
from pipeline.errors import SeriesError
from pipeline.nightly.names import is_dataset_name, retry_order

VERSION = 1


@dataclass(frozen=True)
class DatasetFacts:
    """The facts about a dataset in LATEST.json, besides its name."""

    dataset_digest: str
    vector_digest: str
    rows: int

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Reads the facts of a complete dataset.

        Raises:
            MissingError: it has no dataset.json, or no summary.
        """
        claim, summary = dataset.claim_file(), dataset.summary()
        with parsing.damage(dataset.layout.root):
            return cls(*claim.digests(), summary["rows"])


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The dataset that readers follow: `<series>/<dataset>`.

    previous: the one that they followed before, to which a rollback goes.  pinned: no run moves it.
    updated: when it was written, as ISO time.
    """

    dataset: str
    run_date: datetime.date
    dataset_digest: str
    vector_digest: str
    rows: int
    pinned: bool
    previous: str | None
    updated: str

    @classmethod
    def at(
        cls,
        name: str,
        run_date: datetime.date,
        facts: DatasetFacts,
        previous: str | None,
        pinned: bool = False,
    ) -> Self:
        """Makes the entry for a dataset that readers follow from now on."""
        return cls(
            dataset=name,
            run_date=run_date,
            **dataclasses.asdict(facts),
            pinned=pinned,
            previous=previous,
            updated=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    @property
    def order(self) -> tuple[datetime.date, tuple[str, int]]:
        """Returns the key that orders datasets by age, as `SeriesEntry.order` does."""
        return self.run_date, retry_order(self.dataset)

    @property
    def facts(self) -> DatasetFacts:
        return DatasetFacts(self.dataset_digest, self.vector_digest, self.rows)

    def fields(self) -> dict[str, Any]:
        """Returns its fields as they are in the file."""
        fields = {"format_version": VERSION, **dataclasses.asdict(self)}
        return fields | {"run_date": self.run_date.isoformat()}

    def to_bytes(self) -> bytes:
        """Writes the bytes of LATEST.json."""
        return (json.dumps(self.fields(), indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Reads LATEST.json; ignores unknown fields.

        Raises:
            SeriesError: it can't be read, has another version of the format, or an invalid dataset name.
        """
        try:
            content = parsing.json_value(data)
            version = content["format_version"]
            if version == VERSION:
                known = {field.name: content[field.name] for field in dataclasses.fields(cls)}
                _refuse_other_names(known["dataset"], known["previous"])
                return cls(**(known | {"run_date": datetime.date.fromisoformat(known["run_date"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise SeriesError("can't be read", where, repr(error), "fix it, or move it away") from None
        raise SeriesError(
            "is of another version of this program",
            where,
            f"format version {version}",
            hint="use that version",
        )


def _refuse_other_names(dataset: object, previous: object) -> None:
    for name in [dataset] if previous is None else [dataset, previous]:
        if not is_dataset_name(name):
            raise ValueError(f"{name!r} is not the name of a dataset")
