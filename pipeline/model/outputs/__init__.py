"""Defines what is kept of a text: named outputs, one module each.

An output has some numbers of each text (`width`), which the encoder computes. The writer asks it for the
columns of a shard (`store`). A new column takes a new module, a line in `OUTPUTS` and its name in
`model.outputs` of the config; numbers that do not come from the vector take a head in `model.heads`, too.

Shapes: N rows, D numbers of all outputs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.model.output_spec import EMBEDDING, OutputSpec
from pipeline.model.outputs import classification, embedding

Values = npt.NDArray[Any]
"""The values that an output keeps of N rows: (N, ...)."""


class _Output(Protocol):
    """The interface of an output's module.

    COLUMNS: all columns that it may have in a shard.
    """

    COLUMNS: Sequence[str]

    def width(self, spec: OutputSpec, /) -> int: ...
    def row_bytes(self, spec: OutputSpec, /) -> float: ...
    def fields(self, spec: OutputSpec, /) -> list[pa.Field]: ...
    def store(self, values: Any, spec: OutputSpec, /) -> list[pa.Array]: ...
    def labels(self, shard: pa.Table, /) -> pa.Array: ...


OUTPUTS: dict[str, _Output] = {"embedding": embedding, "classification": classification}
"""The outputs, in the order of their columns in a shard."""


def parted(values_ND: npt.NDArray[np.float32], spec: OutputSpec) -> dict[str, Values]:
    """Returns the numbers of each output, from those of all outputs side by side."""
    found, start = {}, 0
    for name in spec.names:
        stop = start + OUTPUTS[name].width(spec)
        found[name] = values_ND[:, start:stop]
        start = stop
    return found


def width(spec: OutputSpec) -> int:
    """Returns how many numbers all outputs have of a text."""
    return sum(OUTPUTS[name].width(spec) for name in spec.names)


def row_bytes(spec: OutputSpec) -> float:
    """Returns about how many bytes the outputs of a row take in a shard."""
    return sum(OUTPUTS[name].row_bytes(spec) for name in spec.names)


def empty(spec: OutputSpec) -> dict[str, Values]:
    """Returns the values of no row."""
    return parted(np.zeros((0, width(spec)), np.float32), spec)


def finite(values: Mapping[str, Values]) -> npt.NDArray[np.bool_]:
    """Tells of which rows all numbers are finite, (N,)."""
    found = [np.isfinite(each).all(axis=1) for each in values.values()]
    return np.asarray(np.logical_and.reduce(found))


def fields(spec: OutputSpec) -> list[pa.Field]:
    """Returns the fields of all outputs in a shard."""
    return [field for name in spec.names for field in OUTPUTS[name].fields(spec)]


def metadata(spec: OutputSpec) -> dict[bytes, bytes]:
    """Returns what the schema of a shard says of its outputs: their labels, in the order of the scores."""
    return {schema.LABELS_KEY: json.dumps(spec.labels).encode()} if spec.labels else {}


def store(values: Mapping[str, Values], spec: OutputSpec) -> list[pa.Array]:
    """Returns the columns of `fields`, from the values of each output."""
    return [column for name in spec.names for column in OUTPUTS[name].store(values[name], spec)]


def label_counts(shard: pa.Table, spec: OutputSpec) -> list[dict[str, Any]]:
    """Counts the rows of each label, the most frequent first, as rows of `schema.LABEL`."""
    found = []
    for name in spec.names:
        counted = pc.value_counts(OUTPUTS[name].labels(shard))
        labels, rows = (counted.field(part).to_pylist() for part in ("values", "counts"))
        pairs = sorted(zip(labels, rows, strict=True), key=lambda pair: (-pair[1], pair[0]))
        found += [{"output": name, "label": label, "rows": count} for label, count in pairs]
    return found


def columns(names: Sequence[str] = EMBEDDING) -> list[str]:
    """Returns the names of all columns that some outputs may have."""
    return [column for name in names for column in OUTPUTS[name].COLUMNS]


def reserved_names(names: Sequence[str] = EMBEDDING) -> set[str]:
    """Returns the column names that the pipeline uses itself in every shard with these outputs."""
    return {*columns(names), *schema.SHARD_TAIL.names, *schema.CHUNK.names}
