"""Finds out from config.json what a checkpoint's head tells apart. Needs no torch.

Follows transformers: `id2label` names the labels, and `problem_type` says what the scores are. A head that
config.json does not name is not used: transformers would fill it with random numbers.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.config.sections import Model
from pipeline.errors import ModelError
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.output_spec import Classes, Tags

PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
"""transformers' names of what the scores are, and ours."""
THRESHOLD = 0.5
AGGREGATION = "simple"
"""The least that transformers does to make entities of tokens."""


def classes_of(checkpoint: Checkpoint, model: Model) -> Classes:
    """Returns what the classification head of a checkpoint tells apart.

    Raises:
        ModelError: it has no such head, or config.json contradicts itself.
    """
    refuse_other_head(checkpoint, "classification")
    labels = labels_of(checkpoint)
    problem = _problem(checkpoint, len(labels))
    if model.threshold is not None and problem != "multi_label":
        what = "means nothing to this head, which does not give several labels to a text"
        raise ModelError(what, "model.threshold", str(model.threshold), hint="drop it")
    threshold = None
    if problem == "multi_label":
        threshold = THRESHOLD if model.threshold is None else model.threshold
    return Classes(labels, problem, threshold)


def tags_of(checkpoint: Checkpoint, model: Model) -> Tags:
    """Returns what the head of a checkpoint says of tokens.

    Raises:
        ModelError: it has no such head, or config.json contradicts itself.
    """
    refuse_other_head(checkpoint, "entities")
    return Tags(labels_of(checkpoint), model.aggregation or AGGREGATION)


def refuse_other_head(checkpoint: Checkpoint, output: str) -> None:
    """Refuses a checkpoint that was not saved with the head of an output.

    Raises:
        ModelError: config.json names another architecture, or none.
    """
    wanted = checkpoint.family.ARCHITECTURES.get(output)
    if wanted is None:
        kind, hint = checkpoint.family.NAME, f"drop {output} from model.outputs"
        raise ModelError(f"no head of {kind} makes the output {output} here", checkpoint.name, hint=hint)
    found = checkpoint.config.values.get("architectures")
    if isinstance(found, list) and wanted in found:
        return
    raise ModelError(
        f"has no head for the output {output}",
        str(checkpoint.config.path),
        f"architectures {found!r}",
        hint=f"name a checkpoint whose config.json says {wanted}, or drop {output} from model.outputs",
    )


def labels_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Returns the labels of a checkpoint's head, in the order of its scores.

    Raises:
        ModelError: `id2label` does not number its labels from 0, or `num_labels` is another number.
    """
    config, where = checkpoint.config, str(checkpoint.config.path)
    told, number = config.get("id2label"), config.get("num_labels")
    if number is not None:
        number = config.size("num_labels")
    if told is None:
        return tuple(f"LABEL_{at}" for at in range(number or 2))  # transformers leaves out the usual two
    labels = _numbered(told)
    if labels is None:
        hint = "correct id2label there: the numbers 0, 1, 2, ..., and a name for each"
        raise ModelError("id2label does not name the labels", where, repr(told), hint)
    if number not in (None, len(labels)):
        got = f"{number}, and {len(labels)} labels in id2label"
        raise ModelError("num_labels does not fit", where, got, hint="correct one of both there")
    return labels


def _numbered(told: Any) -> tuple[str, ...] | None:
    """Returns the values of a mapping in the order of its keys 0, 1, 2, ...; None if it is something else."""
    if not isinstance(told, Mapping) or not told:
        return None
    labels = [told.get(str(at)) for at in range(len(told))]
    return tuple(map(str, labels)) if all(isinstance(each, str) and each for each in labels) else None


def _problem(checkpoint: Checkpoint, labels: int) -> str:
    """Returns what the scores are. As in transformers' pipeline, one score alone is a probability."""
    config, where = checkpoint.config, str(checkpoint.config.path)
    told = config.get("problem_type")
    if told is None:
        return "single_label" if labels > 1 else "multi_label"
    if not isinstance(told, str) or told not in PROBLEMS:
        raise ModelError("problem_type is unknown", where, repr(told), hint=f"one of {', '.join(PROBLEMS)}")
    problem = PROBLEMS[told]
    if (problem == "regression") != (labels == 1) and problem != "multi_label":
        what = f"{told} does not fit the number of labels"
        raise ModelError(what, where, str(labels), hint="correct problem_type or id2label there")
    return problem
