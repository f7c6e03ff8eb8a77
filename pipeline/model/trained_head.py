"""Reads and writes a head that was trained on the vectors of a dataset. Needs no torch.

It is one linear layer over a text's vector, so it has a folder of its own instead of the layout of
transformers' models for sequence classification: their heads see the first token alone, through a layer that
no training on vectors can find.

Shapes: L labels, D dimensions of a vector.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline import parsing, storage
from pipeline.errors import DamagedError, MissingError, ModelError
from pipeline.model.output_spec import Classes

FACTS, WEIGHTS = "head.json", "head.safetensors"
FORMAT_VERSION = 1
IRRELEVANT = frozenset(
    f"model.{name}"
    for name in (
        "outputs",
        "classes",
        "tags",
        "head",
        "vector",
        "dtype",
        "max_tokens",
        "long_text",
        "chunk_overlap",
    )
)
"""Fields of the vector digest that may differ between the vectors a head was trained on and those it sees:
what is kept of a vector, its precision, and how much of a long text is read."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainedHead:
    """A head over vectors.

    where: its folder or URL.  weight: (L, D) float32.  bias: (L,) float32.
    vectors: the fields of the vector digest that decide what a number of a vector means.
    """

    where: str
    labels: tuple[str, ...]
    vectors: Mapping[str, Any]
    weight: Floats = field(compare=False)
    bias: Floats = field(compare=False)

    @classmethod
    def of(cls, where: str, labels: tuple[str, ...], fields: Mapping[str, Any], *layer: Floats) -> Self:
        """Makes a head for the vectors of a dataset with these fields of the vector digest."""
        return cls(where, labels, _decisive(fields), *layer)

    @property
    def classes(self) -> Classes:
        """Returns what it tells apart: each text has one label."""
        return Classes(self.labels, "single_label")

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of its numbers."""
        return hashlib.sha256(self.weight.tobytes() + self.bias.tobytes()).hexdigest()

    def refuse_other_vectors(self, fields: Mapping[str, Any]) -> None:
        """Refuses vectors that mean something else than those on which it was trained.

        Args:
            fields: the fields of their vector digest.

        Raises:
            ModelError: they do.
        """
        ours = _decisive(fields)
        differ = sorted(
            name for name in ours.keys() | self.vectors.keys() if ours.get(name) != self.vectors.get(name)
        )
        if differ:
            hint = "train it on a dataset of this config (jobs.train_head), or use the config of its dataset"
            raise ModelError("was trained on other vectors", self.where, ", ".join(differ), hint)

    def write(self) -> None:
        """Writes its two files."""
        store = storage.connect(self.where)
        facts = {"format_version": FORMAT_VERSION, "labels": list(self.labels), "vectors": self.vectors}
        store.put(f"{self.where}/{WEIGHTS}", save({"weight": self.weight, "bias": self.bias}))
        store.put(f"{self.where}/{FACTS}", (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())


def read(where: str) -> TrainedHead:
    """Reads a head.

    Args:
        where: its folder or URL.

    Raises:
        ModelError: there is none, or it is damaged.
        StorageError: the storage failed.
    """
    store = storage.connect(where)
    try:
        data, stored = store.read(f"{where}/{FACTS}"), store.read(f"{where}/{WEIGHTS}")
    except MissingError as error:
        hint = "check model.head; `python -m jobs.train_head` writes such a folder"
        raise ModelError("no head here", error.where or where, hint=hint) from None
    try:
        facts = parsing.json_object(data, f"{where}/{FACTS}")
    except DamagedError as error:
        raise _damaged(where, error) from None
    if facts.get("format_version") != FORMAT_VERSION:
        got = f"format version {facts.get('format_version')}"
        raise ModelError("is of another version of this program", where, got, hint="use that version")
    try:
        layer = load(stored)
        labels, vectors = tuple(facts["labels"]), dict(facts["vectors"])
        weight_LD, bias_L = layer["weight"], layer["bias"]
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise _damaged(where, error) from None
    if (
        len(labels) < 2
        or not all(isinstance(label, str) and label for label in labels)
        or len(set(labels)) < len(labels)
        or weight_LD.dtype != np.float32
        or bias_L.dtype != np.float32
        or weight_LD.ndim != 2
        or bias_L.shape != (len(labels),)
        or len(weight_LD) != len(labels)
        or not (np.isfinite(weight_LD).all() and np.isfinite(bias_L).all())
    ):
        got = f"{len(labels)} labels, weights {weight_LD.dtype} {weight_LD.shape}, {bias_L.shape}"
        raise _damaged(where, got)
    return TrainedHead(where, labels, vectors, weight_LD, bias_L)


def _decisive(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in IRRELEVANT}


def _damaged(where: str, got: object) -> ModelError:
    return ModelError(
        "is damaged",
        where,
        parsing.brief(got) if isinstance(got, Exception) else str(got),
        "train it again: python -m jobs.train_head",
    )
