"""Keeps the entities of a text: label, score and place of each. Pure NumPy and Arrow.

A head gives a tag to each token. Tokens are joined to entities exactly as transformers' pipeline for token
classification joins them, with its surprises: only `B-` begins an entity, and each other prefix (`S-` and
`E-` of BIOES) makes a tag of its own, so that an entity in such tags becomes several.

Shapes: N rows, T tokens of all rows, U units (tokens or words), V groups of units, G tags.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.humanize import plural
from pipeline.model.output_spec import OutputSpec, Tags, label_of
from pipeline.model.outputs import place_column
from pipeline.model.token_places import PlacedTokens
from pipeline.ragged import Ints, Ragged, offsets_from_lengths, sums

COLUMNS: Sequence[str] = ("entities",)
RECORD = np.dtype(
    [("label", "<i4"), ("score", "<f4"), ("margin", "<f4"), ("char_start", "<i4"), ("char_stop", "<i4")]
)
"""A group of neighbouring units of one label.

label: its number in `Tags.labels`, or `NO_LABEL`.  score: the mean of its units' greatest scores.
margin: the least distance of a unit's two greatest scores.
"""
NO_LABEL = -1
FIELDS = [
    pa.field("label", pa.string(), nullable=False),
    pa.field("score", pa.float32(), nullable=False),
    *place_column.PLACE_FIELDS,
]
ENTITY_BYTES, TOKENS_PER_ENTITY = 13, 12
"""Guesses for plans: the bytes of an entity, whose label is a number in a dictionary; the tokens for one."""
SLACK = {"float32": 1e-3, "bfloat16": 0.05}
"""How far a stored score may be from its text's, by the arithmetic that made it."""
ROUNDING = 1e-6
"""How far a mean of scores may be above 1."""


def width(_: OutputSpec) -> int:
    """Returns the numbers of a token: its tag, the score of it, and the distance of the score below."""
    return 3


def told(spec: OutputSpec) -> str:
    """Returns in words what is kept of a row."""
    return f"entities of {plural(len(_tags(spec).labels), 'label')}"


def row_bytes(_: OutputSpec) -> float:
    """Returns the bytes of a text without entities."""
    return 1


def token_bytes(_: OutputSpec) -> float:
    """Returns about how many bytes of entities a token adds."""
    return ENTITY_BYTES / TOKENS_PER_ENTITY


def fields(_: OutputSpec) -> list[pa.Field]:
    """Returns the field of the column."""
    return [place_column.field("entities", pa.struct(FIELDS))]


@dataclass(frozen=True, slots=True)
class _Told:
    """The meaning of tags, each (G,).

    label: the number of the label.  kind: the number of the tag without `B-` or `I-`.  begins: it has `B-`.
    """

    label: npt.NDArray[np.int32]
    kind: Ints
    begins: npt.NDArray[np.bool_]

    @classmethod
    def by(cls, tags: Tags) -> "_Told":
        numbers = {label: number for number, label in enumerate(tags.labels)}
        labels = [numbers.get(label_of(tag), NO_LABEL) for tag in tags.tags]
        bare = [tag[2:] if tag.startswith(("B-", "I-")) else tag for tag in tags.tags]
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(bare))}
        begins = [tag.startswith("B-") for tag in tags.tags]
        return cls(np.array(labels, np.int32), np.array([kinds[kind] for kind in bare]), np.array(begins))


def join(values_T3: npt.NDArray[np.float32], tokens: PlacedTokens, spec: OutputSpec) -> Ragged:
    """Returns the groups of each row, (N,) of `RECORD`, those without a label among them.

    A score that is not finite stays in its group, so that its row is seen to have one.
    """
    kept_T, lengths_N = tokens.kept, tokens.kept_lengths
    places_T, values_T3 = tokens.places[kept_T], values_T3[kept_T]
    first_T = _first_of_rows(len(places_T), lengths_N)
    by_words = _tags(spec).aggregation == "first"
    first_U = np.flatnonzero(first_T | ~places_T["joined"]) if by_words else np.arange(len(places_T))
    last_U = np.append(first_U[1:], len(places_T))[: len(first_U)] - 1
    told = _Told.by(_tags(spec))
    tag_U = np.nan_to_num(values_T3[first_U, 0]).astype(np.int64)
    kind_U = told.kind[tag_U]
    begins_U = first_T[first_U] | told.begins[tag_U]
    begins_U[1:] |= kind_U[1:] != kind_U[:-1]
    first_V = np.flatnonzero(begins_U)
    groups_V = np.zeros(len(first_V), RECORD)
    if not len(first_V):
        return Ragged(groups_V, np.zeros(len(tokens.lengths), np.int64))
    last_V = np.append(first_V[1:], len(first_U)) - 1
    scores_U = values_T3[first_U, 1].astype(np.float64)
    groups_V["label"] = told.label[tag_U[first_V]]
    groups_V["score"] = np.add.reduceat(scores_U, first_V) / (last_V - first_V + 1)
    groups_V["margin"] = np.minimum.reduceat(values_T3[first_U, 2], first_V)
    groups_V["char_start"] = places_T["start"][first_U[first_V]]
    groups_V["char_stop"] = places_T["stop"][last_U[last_V]]
    is_first_T = np.zeros(len(places_T), np.bool_)
    is_first_T[first_U[first_V]] = True
    return Ragged(groups_V, sums(is_first_T, lengths_N))


def _first_of_rows(count: int, lengths_N: Ints) -> npt.NDArray[np.bool_]:
    """Tells which of all values are the first of their rows."""
    first = np.zeros(count, np.bool_)
    first[offsets_from_lengths(lengths_N)[:-1][lengths_N > 0]] = True
    return first


def store(groups: Ragged, spec: OutputSpec) -> list[pa.Array]:
    """Returns the column of `fields`: the groups that have a label, in the order of the text."""
    found = _entities(groups)
    names = pa.array(_tags(spec).labels, pa.string())
    records = found.values
    parts = [
        names.take(pa.array(np.ascontiguousarray(records["label"]))),
        *(pa.array(np.ascontiguousarray(records[name])) for name in ("score", "char_start", "char_stop")),
    ]
    return [place_column.lists("entities", pa.StructArray.from_arrays(parts, fields=FIELDS), found.lengths)]


def _entities(groups: Ragged) -> Ragged:
    """Returns the groups that have a label."""
    is_entity_V = groups.values["label"] != NO_LABEL
    return Ragged(groups.values[is_entity_V], sums(is_entity_V, groups.lengths))


def labels(shard: pa.Table) -> pa.Array:
    """Returns for each row each label that its entities have, once, row after row."""
    values, lengths_N = place_column.stored(shard, "entities")
    row_V = np.repeat(np.arange(len(lengths_N)), lengths_N)
    pairs = pa.table({"row": row_V, "label": values.field("label")})
    return pairs.group_by(["row", "label"]).aggregate([]).column("label").combine_chunks()


def faults(shard: pa.Table, spec: OutputSpec) -> Iterator[tuple[npt.NDArray[np.bool_], str]]:
    """Yields the rows with faults in their entities, (N,), and what is wrong."""
    values, lengths_N = place_column.stored(shard, "entities")
    strange_V = _numbers(values, spec) == NO_LABEL
    yield place_column.rows_with(strange_V, lengths_N), "have entities with a label that the model lacks"
    score_V = values.field("score").to_numpy()
    wrong_V = ~((score_V >= 0) & (score_V <= 1 + ROUNDING))
    yield place_column.rows_with(wrong_V, lengths_N), "have entities with a score that is not between 0 and 1"
    yield from place_column.faults(shard, "entities")


def unlike(shard: pa.Table, fresh: Ragged, spec: OutputSpec, dtype: str) -> npt.NDArray[np.bool_]:
    """Tells which rows have other entities than their texts, (N,).

    Where two tags of a token have nearly the same score, another device may choose the other one. So a text
    with such a token may have other entities.
    """
    slack = SLACK[dtype]
    unsure_N = place_column.rows_with(fresh.values["margin"] < 2 * slack, fresh.lengths)
    wanted = _entities(fresh)
    values, lengths_N = place_column.stored(shard, "entities")
    same_N = lengths_N == wanted.lengths
    records_V = wanted[same_N].values
    values = values.filter(pa.array(np.repeat(same_N, lengths_N)))
    other_V = place_column.elsewhere(values, records_V) | (_numbers(values, spec) != records_V["label"])
    other_V |= ~(np.abs(values.field("score").to_numpy() - records_V["score"]) <= slack)
    other_N = ~same_N
    other_N[same_N] = place_column.rows_with(other_V, lengths_N[same_N])
    return np.asarray(other_N & ~unsure_N)


def _numbers(values: pa.StructArray, spec: OutputSpec) -> npt.NDArray[np.int32]:
    """Returns the number of the label of each stored entity; `NO_LABEL` for another one."""
    found = pc.index_in(values.field("label"), pa.array(_tags(spec).labels, pa.string()))
    numbers_V: npt.NDArray[np.int32] = found.fill_null(NO_LABEL).to_numpy()
    return numbers_V


def _tags(spec: OutputSpec) -> Tags:
    if spec.tags is None:
        raise TypeError("the outputs have no entities")
    return spec.tags
