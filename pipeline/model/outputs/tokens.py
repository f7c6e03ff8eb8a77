"""Keeps the vector of each token of a text with its place: the last hidden state. Pure NumPy and Arrow.

Special tokens, and those of a prefix, are none of a text's.

Shapes: N rows, T tokens of all rows, V tokens that are kept, H hidden numbers.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.model.output_spec import OutputSpec
from pipeline.model.outputs import place_column
from pipeline.model.outputs.embedding import quantized
from pipeline.model.outputs.list_columns import list_array, list_type
from pipeline.model.token_places import PlacedTokens
from pipeline.ragged import Ragged

COLUMNS: Sequence[str] = ("tokens",)
DISTANCE = {"float32": 0.02, "bfloat16": 0.15}
"""How far a stored vector may be from its token's, as a part of its length, by the arithmetic of both."""


def width(spec: OutputSpec) -> int:
    """Returns the length of a token's vector."""
    return spec.hidden_size


def told(spec: OutputSpec) -> str:
    """Returns in words what is kept of a row."""
    return f"{spec.hidden_size:,} dimensions ({spec.vector}) of each token"


def row_bytes(_: OutputSpec) -> float:
    """Returns the bytes of a text without tokens."""
    return 1


def token_bytes(spec: OutputSpec) -> float:
    """Returns the bytes of a token: its place and its vector."""
    return 8 + (spec.hidden_size + 4 if spec.vector == "int8" else 4 * spec.hidden_size)


def fields(spec: OutputSpec) -> list[pa.Field]:
    """Returns the field of the column."""
    return [place_column.field("tokens", pa.struct(_fields(spec)))]


def _fields(spec: OutputSpec) -> list[pa.Field]:
    if spec.vector == "int8":
        vector = pa.field("embedding", list_type(pa.int8(), spec.hidden_size, spec), nullable=False)
        return [
            *place_column.PLACE_FIELDS, vector, pa.field("embedding_scale", pa.float32(), nullable=False)
        ]  # fmt: skip
    vector = pa.field("embedding", list_type(pa.float32(), spec.hidden_size, spec), nullable=False)
    return [*place_column.PLACE_FIELDS, vector]


def join(hidden_TH: npt.NDArray[np.float32], tokens: PlacedTokens, spec: OutputSpec) -> Ragged:
    """Returns the tokens of each row, with places and vectors."""
    kept_T = tokens.kept
    record = [("char_start", "<i4"), ("char_stop", "<i4"), ("vector", "<f4", (spec.hidden_size,))]
    records_V = np.empty(int(kept_T.sum()), np.dtype(record))
    places_V = tokens.places[kept_T]
    records_V["char_start"], records_V["char_stop"] = places_V["start"], places_V["stop"]
    records_V["vector"] = hidden_TH[kept_T]
    return Ragged(records_V, tokens.kept_lengths)


def store(kept: Ragged, spec: OutputSpec) -> list[pa.Array]:
    """Returns the column of `fields`; `int8` is quantized as in `embedding`, with a scale for each token."""
    records_V = kept.values
    places = [pa.array(np.ascontiguousarray(records_V[name])) for name in ("char_start", "char_stop")]
    vectors_VH = np.ascontiguousarray(records_V["vector"])
    if spec.vector == "int8":
        rounded_VH, scale_V = quantized(vectors_VH)
        flat, more = pa.array(rounded_VH.reshape(-1)), [pa.array(scale_V)]
    else:
        flat, more = pa.array(vectors_VH.reshape(-1)), []
    vectors = list_array(flat, spec.hidden_size, spec)
    values = pa.StructArray.from_arrays([*places, vectors, *more], fields=_fields(spec))
    return [place_column.lists("tokens", values, kept.lengths)]


def labels(_: pa.Table) -> pa.Array:
    """Returns no label: a token has none here."""
    return pa.array([], pa.string())


def faults(shard: pa.Table, spec: OutputSpec) -> Iterator[tuple[npt.NDArray[np.bool_], str]]:
    """Yields the rows with faults in their tokens, (N,), and what is wrong."""
    values, lengths_N = place_column.stored(shard, "tokens")
    if not spec.fixed_lists:
        sizes = pc.list_value_length(values.field("embedding"))
        other_V = pc.not_equal(sizes, spec.hidden_size).to_numpy(zero_copy_only=False)
        if other_V.any():  # then they do not form a matrix
            what = f"have tokens whose vectors are not of {spec.hidden_size} numbers"
            yield place_column.rows_with(other_V, lengths_N), what
            return
    strange_V = ~np.asarray(np.isfinite(_vectors(values, spec)).all(axis=1))
    yield place_column.rows_with(strange_V, lengths_N), "have tokens with NaN or infinity"
    yield from place_column.faults(shard, "tokens")


def unlike(shard: pa.Table, fresh: Ragged, spec: OutputSpec, dtype: str) -> npt.NDArray[np.bool_]:
    """Tells which rows have other tokens than their texts, (N,): other places, or vectors far from theirs.

    How far quantization can have moved a vector is added to the bound.
    """
    values, lengths_N = place_column.stored(shard, "tokens")
    same_N = lengths_N == fresh.lengths
    records_V = fresh[same_N].values
    values = values.filter(pa.array(np.repeat(same_N, lengths_N)))
    wanted_VH = records_V["vector"]
    distance_V = np.linalg.norm(_vectors(values, spec) - wanted_VH, axis=1)
    most_V = DISTANCE[dtype] * np.linalg.norm(wanted_VH, axis=1)
    if spec.vector == "int8":
        most_V += values.field("embedding_scale").to_numpy() * np.sqrt(spec.hidden_size) / 2
    other_V = place_column.elsewhere(values, records_V) | ~(distance_V <= most_V)
    other_N = ~same_N
    other_N[same_N] = place_column.rows_with(other_V, lengths_N[same_N])
    return np.asarray(other_N)


def _vectors(values: pa.StructArray, spec: OutputSpec) -> npt.NDArray[np.float32]:
    """Returns the vectors of stored tokens, (V, H) float32."""
    flat = values.field("embedding").flatten().to_numpy()
    vectors_VH: npt.NDArray[np.float32] = flat.reshape(-1, spec.hidden_size).astype(np.float32, copy=False)
    if spec.vector == "int8":
        vectors_VH = vectors_VH * values.field("embedding_scale").to_numpy()[:, None]
    return vectors_VH
