"""Derives a dataset's identity: everything that decides about its shards, as flat fields, and its digests."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import pyarrow as pa

from pipeline import parsing, schema
from pipeline.config.sections import Config
from pipeline.errors import (
    OtherDatasetError,
)
from pipeline.model import outputs
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec, vector_dimension
from pipeline.model.output_spec import EMBEDDING, Classes, OutputSpec, Tags

OPERATIONAL = re.compile(
    r"(compute|quality|report|reuse|cost|publish|output\.(path|run_date|options)|source\.[^.]+\.(options|version))(\.|$)"
)
"""Config that never changes a shard, and so may differ in a resume. All other config counts."""
RESOLVED = re.compile(r"source\.[^.]+\.(prefix|prompt)")
"""Config of sources that the recipe has instead: what is put before a text counts, not who says so."""


OWN = {"model.arithmetic": 1, "model.tokenizing": 1}
"""Versions of our own code that decides about a vector.

Raise one when a text would get another vector, so that older vectors are not mistaken for present ones. A
version 1 is left out, as in older datasets.
"""


OWN_FIRST = dict.fromkeys(OWN, 1)
ADDED: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(r"source\.[^.]+\.hidden"), "skip"),
    (re.compile(r"source\.[^.]+\.binary_as_string"), False),
    (re.compile(r"source\.[^.]+\.encoding"), "utf-8"),
    (re.compile(r"source\.[^.]+\.csv\.escape"), None),
    (re.compile(r"source\.[^.]+\.csv\.null_values"), []),
    (re.compile(r"source\.[^.]+\.text_pair_column"), None),
    (re.compile(r"output\.vector_list"), "fixed"),
    (re.compile(r"output\.target_file_bytes"), None),
)
"""Config that older versions did not have, with the value that does what they did.

A field with this value is left out, so that the digests of older datasets stay as they are.
"""


@dataclass(frozen=True)
class Identity:
    """Everything that a dataset is made from, as flat `name: value` fields, with digests.

    Vectors may be reused under an equal vector digest; shards belong together under an equal dataset digest.
    """

    vector_fields: Mapping[str, Any]
    dataset_fields: Mapping[str, Any]

    @classmethod
    def of(cls, config: Config, checkpoint: Checkpoint) -> Self:
        """Derives the identity of what a config makes with a checkpoint.

        Raises:
            ModelError: the head of the config was trained on other vectors.
        """
        # The recipe replaces the config's model: contents count, not their names or paths.
        recipe = EmbeddingSpec.of_config(checkpoint, config)
        model = {f"model.{key}": value for key, value in recipe.fields().items()}
        model |= {"model.dtype": config.dtype}
        model |= {"model.weights": checkpoint.weights_digest, "model.tokenizer": checkpoint.tokenizer_digest}
        model |= {f"model.config.{key}": value for key, value in checkpoint.digested.items()}
        model |= {name: version for name, version in OWN.items() if version != 1}
        if recipe.head:
            recipe.head.refuse_other_vectors(model)
        if checkpoint.engine != "native":  # older datasets know no other
            model["model.engine"] = checkpoint.engine
        return cls(model, fields_of(config))

    @property
    def vector_digest(self) -> str:
        return _digest(self.vector_fields)

    @property
    def dataset_digest(self) -> str:
        return _digest({**self.vector_fields, **self.dataset_fields})

    @property
    def dimension(self) -> int:
        """Returns the length of a vector."""
        model = self.vector_fields
        width = model["model.dense"][-1]["outputs"] if model["model.dense"] else None
        modes = len(model["model.pooling"].split("+"))
        hidden_size, kept = model["model.config.hidden_size"], model["model.truncate_dim"]
        return int(vector_dimension(hidden_size, modes, width, kept))

    @property
    def outputs(self) -> OutputSpec:
        """Returns the description of the outputs; an older dataset names none, and has vectors alone."""
        model = self.vector_fields
        return OutputSpec(
            names=tuple(model.get("model.outputs", EMBEDDING)),
            vector=model["model.vector"],
            dimension=self.dimension,
            classes=self._classes,
            tags=self._tags,
            hidden_size=model["model.config.hidden_size"],
            fixed_lists=self.dataset_fields.get("output.vector_list", "fixed") == "fixed",
        )

    @property
    def _classes(self) -> Classes | None:
        told = self.vector_fields.get("model.classes")
        return Classes.from_fields(told) if told else None

    @property
    def _tags(self) -> Tags | None:
        told = self.vector_fields.get("model.tags")
        return Tags.from_fields(told) if told else None

    def shard_schema(self, columns: pa.Schema) -> pa.Schema:
        """Returns the schema of every shard; needs no checkpoint.

        Args:
            columns: the plan's id and carried columns.
        """
        rows = schema.rows_schema(columns, chunked=self.vector_fields["model.long_text"] == "chunks")
        return schema.shard_schema(rows, outputs.fields(self.outputs))

    def to_bytes(self, config: Config, base: str | None = None, claim: str = "") -> bytes:
        """Writes the bytes of dataset.json.

        Args:
            base: the path of the dataset whose vectors may be reused.
            claim: distinguishes this dataset from an earlier one at the same path that was removed.
        """
        labels = OutputSpec(classes=self._classes, tags=self._tags).labels
        content = {
            "format_version": schema.FORMAT_VERSION,
            "claim": claim,
            "base": base,
            "vector_digest": self.vector_digest,
            "dataset_digest": self.dataset_digest,
            "vector_fields": self.vector_fields,
            "dataset_fields": self.dataset_fields,
            **({"labels": labels} if labels else {}),
            "config": config.model_dump(mode="json"),
        }
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Reads dataset.json; raises the errors of `of_content`."""
        return cls.of_content(parsing.json_object(data, where), where)

    @classmethod
    def of_content(cls, content: Mapping[str, Any], where: str) -> Self:
        """Takes the identity from the content of dataset.json.

        Raises:
            OtherDatasetError: it is not of this version of the format.
            DamagedError: it is not a dataset.json.
        """
        if content.get("format_version") != schema.FORMAT_VERSION:
            got = f"format version {content.get('format_version')}"
            raise OtherDatasetError(
                "is of another version of this program",
                where,
                got,
                hint="use that version, or a new output.path",
            )
        with parsing.damage(where):
            return cls(dict(content["vector_fields"]), dict(content["dataset_fields"]))

    def differences(self, other: "Identity") -> list[str]:
        """Returns a line for each field that differs, with their value and ours."""
        ours = {**OWN_FIRST, **self.vector_fields, **self.dataset_fields}
        theirs = {**OWN_FIRST, **other.vector_fields, **other.dataset_fields}
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        return [f"{name}: {_brief(theirs.get(name))} there, {_brief(ours.get(name))} here" for name in names]


def fields_of(config: Config) -> dict[str, Any]:
    """Returns the fields of a config, except its model, that decide about the shards."""
    flat = _flatten(config.model_dump(mode="json"))
    return {
        key: value
        for key, value in flat.items()
        if not (key.startswith("model.") or _elsewhere(key) or _as_before(key, value))
    }


def _elsewhere(key: str) -> bool:
    """Tells whether a field decides nothing about the shards, or decides it by the recipe."""
    return bool(OPERATIONAL.match(key) or RESOLVED.fullmatch(key))


def _as_before(key: str, value: Any) -> bool:
    """Tells whether a field has the value that stands for what older versions did."""
    return any(pattern.fullmatch(key) and value == before for pattern, before in ADDED)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _digest(fields: Mapping[str, Any]) -> str:
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}…{text[-6:]}"
