"""Checks the columns of a classification: scores that can be, and the label and the score that they give.

Shapes: N rows, L labels.
"""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.model.output_spec import Classes, OutputSpec
from pipeline.model.outputs import classification
from pipeline.verify.problems import Problem, some

SUM_SLACK = 1e-3
"""How far from 1 the sum of a text's scores may be."""


def labels(rows: pa.Table, spec: OutputSpec) -> Iterator[Problem]:
    """Checks the labels in a shard's footer."""
    told = (rows.schema.metadata or {}).get(schema.LABELS_KEY, b"{}")
    try:
        found = json.loads(told)
    except ValueError:
        found = None
    if found != spec.labels:
        yield "schema", f"its footer's {schema.LABELS_KEY.decode()} are not the labels of dataset.json"


def scores(rows: pa.Table, spec: OutputSpec) -> Iterator[Problem]:
    """Checks the scores of all rows; no check of one row depends on another."""
    classes = spec.classes
    if classes is None or not rows.num_rows:
        return
    if not spec.fixed_lists and classes.problem != "regression":
        other_N = pc.not_equal(pc.list_value_length(rows["scores"]), len(classes.labels)).to_numpy()
        if other_N.any():  # then they do not form a matrix
            yield from some(
                "outputs", other_N, rows, f"have scores that are not of {len(classes.labels)} labels"
            )
            return
    scores_NL = classification.load(rows, spec)
    finite_N = np.asarray(np.isfinite(scores_NL).all(axis=1))
    yield from some("outputs", ~finite_N, rows, "have scores that are NaN or infinity")
    if classes.problem == "regression":
        return
    outside_N = finite_N & ((scores_NL < 0) | (scores_NL > 1)).any(axis=1)
    yield from some("outputs", outside_N, rows, "have scores that are not between 0 and 1")
    if classes.problem == "single_label":
        wrong_N = finite_N & (np.abs(scores_NL.sum(axis=1, dtype=np.float64) - 1) > SUM_SLACK)
        yield from some("outputs", wrong_N, rows, "have scores whose sum is not 1")
    yield from _derived(rows, classes, scores_NL)


def _derived(rows: pa.Table, classes: Classes, scores_NL: classification.Scores) -> Iterator[Problem]:
    """Checks what is derived from the scores."""
    other_N = rows["score"].to_numpy() != scores_NL.max(axis=1)
    yield from some("outputs", other_N, rows, "have a score that is not the greatest of their scores")
    wanted = classification.labels_of(scores_NL, classes)
    found = rows["label"].combine_chunks()
    if pa.types.is_list(found.type):  # lists have no comparison
        pairs = zip(found.to_pylist(), wanted.to_pylist(), strict=True)
        other_N = np.fromiter((one != other for one, other in pairs), np.bool_, rows.num_rows)
    else:
        other_N = pc.not_equal(found, wanted).to_numpy(zero_copy_only=False)
    yield from some("outputs", other_N, rows, "have a label that is not that of their scores")
