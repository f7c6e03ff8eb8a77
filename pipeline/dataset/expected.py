"""What every shard of a dataset must be, by its dataset.json and its plan."""

from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from pipeline.dataset.identity import Identity


@dataclass(frozen=True, slots=True)
class Expected:
    """What every shard of a dataset must be; max_tokens is None where rows may have more."""

    columns: pa.Schema
    vector: str
    dimension: int
    normalized: bool
    max_tokens: int | None

    @classmethod
    def of(cls, identity: Identity, columns: pa.Schema) -> Self:
        """From whose dataset it is and the carried columns of its plan; no checkpoint is asked for."""
        model = {name.removeprefix("model."): value for name, value in identity.vector_fields.items()}
        return cls(
            columns=identity.shard_schema(columns),
            vector=model["vector"],
            dimension=identity.dimension,
            normalized=model["normalize"],
            max_tokens=None if model["long_text"] == "mean_of_chunks" else model["max_tokens"],
        )
