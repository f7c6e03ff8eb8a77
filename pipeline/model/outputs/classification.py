"""Stores what a classification head says of a text: its label, the score of it, and the scores of all labels.

Pure NumPy and Arrow. Shapes: N rows, L labels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.humanize import plural
from pipeline.model.output_spec import Classes, OutputSpec
from pipeline.model.outputs.list_columns import list_array, list_type
from pipeline.ragged import offsets_from_lengths

Scores = npt.NDArray[np.float32]
COLUMNS: Sequence[str] = ("label", "score", "scores")


def width(spec: OutputSpec) -> int:
    """Returns the number of scores of a text."""
    return len(_classes(spec).labels)


def told(spec: OutputSpec) -> str:
    """Returns in words what is kept of a row."""
    classes = _classes(spec)
    return "one number" if classes.problem == "regression" else plural(len(classes.labels), "label")


def row_bytes(spec: OutputSpec) -> float:
    """Returns the bytes of the scores of a text; its label is a number in a dictionary."""
    return 4 * (len(_classes(spec).labels) + 1)


def fields(spec: OutputSpec) -> list[pa.Field]:
    """Returns the fields: a regression has a score alone, and a text may have several labels, or none."""
    classes = _classes(spec)
    score = pa.field("score", pa.float32(), nullable=False)
    if classes.problem == "regression":
        return [score]
    label = pa.list_(pa.string()) if classes.problem == "multi_label" else pa.string()
    scores = pa.field("scores", list_type(pa.float32(), len(classes.labels), spec), nullable=False)
    return [pa.field("label", label, nullable=False), score, scores]


def store(scores_NL: Scores, spec: OutputSpec) -> list[pa.Array]:
    """Returns the columns of `fields`. `score` is the greatest score; of equal ones the first counts."""
    classes = _classes(spec)
    scores_NL = np.ascontiguousarray(scores_NL)
    if classes.problem == "regression":
        return [pa.array(scores_NL[:, 0])]
    greatest = pa.array(scores_NL.max(axis=1))
    scores = list_array(pa.array(scores_NL.reshape(-1)), len(classes.labels), spec)
    return [labels_of(scores_NL, classes), greatest, scores]


def labels_of(scores_NL: Scores, classes: Classes) -> pa.Array:
    """Returns the label of each row; for a multi label problem the list of its labels."""
    names = pa.array(classes.labels, pa.string())
    if classes.threshold is None:
        return names.take(pa.array(scores_NL.argmax(axis=1)))
    above_NL = scores_NL > np.float32(classes.threshold)
    offsets = pa.array(offsets_from_lengths(above_NL.sum(axis=1)), pa.int32())
    return pa.ListArray.from_arrays(offsets, names.take(pa.array(np.nonzero(above_NL)[1])))


def labels(shard: pa.Table) -> pa.Array:
    """Returns the labels of all rows, one after the other; a regression has none."""
    if "label" not in shard.column_names:
        return pa.array([], pa.string())
    found = shard.column("label").combine_chunks()
    return found.flatten() if pa.types.is_list(found.type) else found


def load(shard: pa.Table, spec: OutputSpec) -> Scores:
    """Returns the scores that `store` stored, (N, L)."""
    classes = _classes(spec)
    if classes.problem == "regression":
        values = shard.column("score")
    else:
        chunks = [chunk.flatten() for chunk in shard.column("scores").chunks]
        values = pa.chunked_array(chunks, pa.float32())
    scores_NL: Scores = values.to_numpy().reshape(shard.num_rows, len(classes.labels))
    return scores_NL


def _classes(spec: OutputSpec) -> Classes:
    if spec.classes is None:
        raise TypeError("the outputs have no classification")
    return spec.classes
