"""Defines what is kept of a text: named outputs, one module each.

An output has some numbers of each text, or of each of its tokens (`TOKEN_OUTPUTS`). The encoder computes
them, and `width` says how many. Those of tokens become the values of a row (`join`), as many as there are.
The writer asks an output for the columns of a shard (`store`). A new column takes a new module, a
line in `OUTPUTS` and its name in `model.outputs` of the config; numbers that do not come from the vector take
a head in `model.heads`, too.

Shapes: N rows, T tokens of all rows, D numbers of a text and K of a token, for all outputs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.model.output_spec import EMBEDDING, OutputSpec
from pipeline.model.outputs import classification, embedding, entities, tokens
from pipeline.model.token_places import PlacedTokens, nowhere
from pipeline.ragged import Ragged

Values = npt.NDArray[Any] | Ragged
"""The values that an output keeps of N rows: (N, ...), or any number of records of each row."""
Fault = tuple[npt.NDArray[np.bool_], str]
"""The rows that have a fault, (N,), and the fault in words."""


class _Output(Protocol):
    """The interface of an output's module.

    COLUMNS: all columns that it may have in a shard.
    """

    COLUMNS: Sequence[str]

    def width(self, spec: OutputSpec, /) -> int: ...
    def told(self, spec: OutputSpec, /) -> str: ...
    def row_bytes(self, spec: OutputSpec, /) -> float: ...
    def fields(self, spec: OutputSpec, /) -> list[pa.Field]: ...
    def store(self, values: Any, spec: OutputSpec, /) -> list[pa.Array]: ...
    def labels(self, shard: pa.Table, /) -> pa.Array: ...


class _TokenOutput(_Output, Protocol):
    """The interface of the module of an output that has some numbers of each token."""

    def token_bytes(self, spec: OutputSpec, /) -> float: ...
    def join(self, values_TK: Any, tokens: PlacedTokens, spec: OutputSpec, /) -> Ragged: ...
    def faults(self, shard: pa.Table, spec: OutputSpec, /) -> Iterator[Fault]: ...
    def unlike(
        self, shard: pa.Table, fresh: Ragged, spec: OutputSpec, dtype: str, /
    ) -> npt.NDArray[np.bool_]: ...


TOKEN_OUTPUTS: dict[str, _TokenOutput] = {"entities": entities, "tokens": tokens}
"""The outputs that have numbers of each token."""
OUTPUTS: dict[str, _Output] = {"embedding": embedding, "classification": classification, **TOKEN_OUTPUTS}
"""The outputs, in the order of their columns in a shard."""


def of_texts(names: Sequence[str]) -> list[str]:
    """Returns the outputs that have numbers of each text."""
    return [name for name in names if name not in TOKEN_OUTPUTS]


def of_tokens(names: Sequence[str]) -> list[str]:
    """Returns the outputs that have numbers of each token."""
    return [name for name in names if name in TOKEN_OUTPUTS]


def parted(values_ND: npt.NDArray[np.float32], spec: OutputSpec) -> dict[str, npt.NDArray[Any]]:
    """Returns the numbers of each output of texts, from those of all of them side by side."""
    return _parted(values_ND, of_texts(spec.names), spec)


def joined(
    values_TK: npt.NDArray[np.float32], placed: PlacedTokens, spec: OutputSpec
) -> dict[str, npt.NDArray[Any] | Ragged]:
    """Returns the values that each output of tokens keeps of rows, from the numbers of all of them."""
    parts = _parted(values_TK, of_tokens(spec.names), spec)
    return {name: TOKEN_OUTPUTS[name].join(part, placed, spec) for name, part in parts.items()}


def _parted(
    values: npt.NDArray[np.float32], names: Sequence[str], spec: OutputSpec
) -> dict[str, npt.NDArray[Any]]:
    found, start = {}, 0
    for name in names:
        stop = start + OUTPUTS[name].width(spec)
        found[name] = values[:, start:stop]
        start = stop
    return found


def width(spec: OutputSpec) -> int:
    """Returns how many numbers all outputs have of a text."""
    return sum(OUTPUTS[name].width(spec) for name in of_texts(spec.names))


def token_width(spec: OutputSpec) -> int:
    """Returns how many numbers all outputs have of a token."""
    return sum(OUTPUTS[name].width(spec) for name in of_tokens(spec.names))


def row_bytes(spec: OutputSpec) -> float:
    """Returns about how many bytes the outputs of a row take in a shard, without those of its tokens."""
    return sum(OUTPUTS[name].row_bytes(spec) for name in spec.names)


def token_bytes(spec: OutputSpec) -> float:
    """Returns about how many bytes a token adds to the outputs of its row in a shard."""
    return sum(TOKEN_OUTPUTS[name].token_bytes(spec) for name in of_tokens(spec.names))


def told(spec: OutputSpec) -> str:
    """Returns in a few words what is kept of a row."""
    return " and ".join(OUTPUTS[name].told(spec) for name in spec.names)


def empty(spec: OutputSpec) -> dict[str, Values]:
    """Returns the values of no row."""
    none = PlacedTokens(nowhere(0), np.zeros(0, np.int64))
    tokens_0K = np.zeros((0, token_width(spec)), np.float32)
    return {**parted(np.zeros((0, width(spec)), np.float32), spec), **joined(tokens_0K, none, spec)}


def finite(values: Mapping[str, Values]) -> npt.NDArray[np.bool_]:
    """Tells of which rows all numbers are finite, (N,)."""
    found = [_finite_records(each) if isinstance(each, Ragged) else _finite(each) for each in values.values()]
    return np.asarray(np.logical_and.reduce(found))


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))


def _finite_records(values: Ragged) -> npt.NDArray[np.bool_]:
    """Tells of which rows all numbers of all records are finite, (N,)."""
    bad_V = np.zeros(len(values.values), np.bool_)
    for name in values.values.dtype.names or ():
        bad_V |= ~_finite(values.values[name])
    return np.asarray(np.bincount(values.rows[bad_V], minlength=len(values)) == 0)


def fields(spec: OutputSpec) -> list[pa.Field]:
    """Returns the fields of all outputs in a shard."""
    return [field for name in spec.names for field in OUTPUTS[name].fields(spec)]


def metadata(spec: OutputSpec) -> dict[bytes, bytes]:
    """Returns what the schema of a shard says of its outputs: their labels, in the order of the scores."""
    return {schema.LABELS_KEY: json.dumps(spec.labels).encode()} if spec.labels else {}


def store(values: Mapping[str, Values], spec: OutputSpec) -> list[pa.Array]:
    """Returns the columns of `fields`, from the values of each output."""
    return [column for name in spec.names for column in OUTPUTS[name].store(values[name], spec)]


def faults(shard: pa.Table, spec: OutputSpec) -> Iterator[Fault]:
    """Yields the faults of what outputs of tokens have stored."""
    for name in of_tokens(spec.names):
        yield from TOKEN_OUTPUTS[name].faults(shard, spec)


def unlike(
    shard: pa.Table, fresh: Mapping[str, Values], spec: OutputSpec, dtype: str
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yields the name of each output of tokens, and the rows whose values are not their texts', (N,).

    Args:
        fresh: the values of these texts, computed in float32.  dtype: the arithmetic that made the shard.
    """
    for name in of_tokens(spec.names):
        values = fresh[name]
        if isinstance(values, Ragged):
            yield name, TOKEN_OUTPUTS[name].unlike(shard, values, spec, dtype)


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


def vector_columns() -> list[str]:
    """Returns the names of the columns that hold vectors, which no person reads."""
    return [*embedding.COLUMNS, *tokens.COLUMNS]


def reserved_names(names: Sequence[str] = EMBEDDING) -> set[str]:
    """Returns the column names that the pipeline uses itself in every shard with these outputs."""
    return {*columns(names), *schema.SHARD_TAIL.names, *schema.CHUNK.names}
