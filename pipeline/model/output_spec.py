"""Describes the outputs of a dataset: which they are, and what decides their columns. Needs no torch.

Planning resolves a description from config and checkpoint. Later commands read it from dataset.json, so that
they need neither.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

EMBEDDING: tuple[str, ...] = ("embedding",)
"""The outputs of a dataset that names none."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes that a head tells apart.

    labels: in the order of the head's scores.
    problem: `single_label` (the scores of a text sum to 1), `multi_label` (each is a probability of its own),
        or `regression` (one number that is not a probability).
    threshold: the score above which a text has a label; None unless the problem is `multi_label`.
    """

    labels: tuple[str, ...]
    problem: str
    threshold: float | None = None

    def fields(self) -> dict[str, Any]:
        """Returns the settings by name, for a digest."""
        return {**asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Takes the settings from the fields of a digest."""
        return cls(tuple(fields["labels"]), fields["problem"], fields["threshold"])


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags that a head gives to tokens, and how tokens become entities.

    tags: in the order of the head's scores, such as `O`, `B-PER` and `I-PER`.
    aggregation: `simple` (neighbours of one label are joined), or `first` (words are, by their first tokens).
    """

    tags: tuple[str, ...]
    aggregation: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Returns the labels that entities have, in the order of their first tags; `O` is none."""
        return tuple(dict.fromkeys(label for tag in self.tags if (label := label_of(tag)) != OUTSIDE))

    def fields(self) -> dict[str, Any]:
        """Returns the settings by name, for a digest."""
        return {**asdict(self), "tags": list(self.tags)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Takes the settings from the fields of a digest."""
        return cls(tuple(fields["tags"]), fields["aggregation"])


OUTSIDE = "O"
"""The tag, and the label, of what belongs to no entity."""


def label_of(tag: str) -> str:
    """Returns the label of an entity whose first token has a tag: what follows the first hyphen, or all."""
    return tag.split("-", 1)[-1]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The outputs of a dataset.

    names: the outputs, in the order of their columns.  vector: how vectors are stored.
    dimension: of a text's vector.  hidden_size: of a token's vector.
    classes: those of `classification`.  tags: those of `entities`.
    fixed_lists: whether the Arrow type of lists of numbers names their length.
    """

    names: tuple[str, ...] = EMBEDDING
    vector: str = "float32"
    dimension: int = 0
    classes: Classes | None = None
    tags: Tags | None = None
    hidden_size: int = 0
    fixed_lists: bool = True

    @property
    def labels(self) -> dict[str, list[str]]:
        """Returns the labels of each output that has some."""
        found: dict[str, Classes | Tags | None] = {"classification": self.classes, "entities": self.tags}
        return {name: list(told.labels) for name, told in found.items() if told}
