"""Derives from dataset.json and the plan what every shard of a dataset must be."""

from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from pipeline.dataset.identity import Identity
from pipeline.model.output_spec import OutputSpec


@dataclass(frozen=True, slots=True)
class Expected:
    """The required properties of every shard of a dataset; max_tokens is None if rows may have more."""

    columns: pa.Schema
    outputs: OutputSpec
    normalized: bool
    max_tokens: int | None

    @classmethod
    def of(cls, identity: Identity, columns: pa.Schema) -> Self:
        """Derives them from the identity and the plan's carried columns; needs no checkpoint."""
        model = {name.removeprefix("model."): value for name, value in identity.vector_fields.items()}
        return cls(
            columns=identity.shard_schema(columns),
            outputs=identity.outputs,
            normalized=model["normalize"],
            max_tokens=None if model["long_text"] == "mean_of_chunks" else model["max_tokens"],
        )
