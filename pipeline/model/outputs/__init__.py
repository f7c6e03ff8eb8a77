"""Defines what is kept of a text: named outputs, one module each.

An output gets the encoder's vectors and returns what it keeps of them (`of_vectors`), so it is a function of
a text's vector alone. The writer asks it for the columns of a shard (`store`): numbers, lists of numbers of a
fixed size, or bytes. A new column takes a new module and a line in `OUTPUTS`. Raise `model.arithmetic` in
`identity.OWN` with it, because a base without the column has nothing to reuse.

Shapes: N rows, D dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schema
from pipeline.model.outputs import embedding

Values = npt.NDArray[Any]
"""The values that an output keeps of N rows: (N, ...)."""


class _Output(Protocol):
    """The interface of an output's module.

    COLUMNS: all columns that it may have in a shard; the first one has the output's name.
    """

    COLUMNS: Sequence[str]

    def of_vectors(self, vectors_ND: npt.NDArray[np.float32], /) -> Values: ...
    def fields(self, kind: str, dimension: int, /) -> list[pa.Field]: ...
    def store(self, values: Any, kind: str, /) -> list[pa.Array]: ...


OUTPUTS: dict[str, _Output] = {"embedding": embedding}
"""The outputs, in the order of their columns in a shard."""


def of_vectors(vectors_ND: npt.NDArray[np.float32]) -> dict[str, Values]:
    """Returns what each output keeps of the rows' vectors, by the output's name."""
    return {name: output.of_vectors(vectors_ND) for name, output in OUTPUTS.items()}


def fields(kind: str, dimension: int) -> list[pa.Field]:
    """Returns the fields of all outputs in a shard.

    Args:
        kind: the storage of vectors, `model.vector`.  dimension: of a vector.
    """
    return [field for output in OUTPUTS.values() for field in output.fields(kind, dimension)]


def store(values: Mapping[str, Values], kind: str) -> list[pa.Array]:
    """Returns the columns of `fields`, from what each output kept."""
    return [column for name, output in OUTPUTS.items() for column in output.store(values[name], kind)]


def columns() -> list[str]:
    """Returns the names of all columns that an output may have."""
    return [name for output in OUTPUTS.values() for name in output.COLUMNS]


def reserved_names() -> set[str]:
    """Returns the column names that the pipeline uses itself in every shard."""
    return {*columns(), *schema.SHARD_TAIL.names, *schema.CHUNK.names}
