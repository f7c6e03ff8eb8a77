"""Matches stored weights with those that the encoder needs, and says what others are."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.humanize import named
from pipeline.model.config_checks import own_code
from pipeline.model.families import Family
from pipeline.model.model_config import ModelConfig

_CRF = re.compile(r"(^|[._])crf[._]|(^|\.)(start_|end_)?transitions$", re.IGNORECASE)


def match(
    family: Family, config: ModelConfig, folder: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Returns the stored name of each weight that the encoder needs, by its name in the model.

    Args:
        shapes: the shapes of the stored weights.

    Raises:
        ModelError: a weight is missing, has another shape, or is unknown.
    """
    expected = dict(family.weights(config))
    names = {name: name if name in shapes else family.PREFIX + name for name in expected}
    missing, wrong = _faults(expected, names, shapes)
    unexpected = [name for name in shapes if name not in names.values() and not family.HEADS.match(name)]
    for what, which in (
        ("are missing", missing),
        ("are unexpected", unexpected),
        ("are of another shape", wrong),
    ):
        if which:
            own = what == "are unexpected" and not missing and not wrong
            finding = _surplus(family, config, which) if own else (f"weights {what}", _advice(config))
            raise ModelError(finding[0], str(folder), named(which, ", "), hint=finding[1])
    return names


def match_head(
    family: Family, config: ModelConfig, head: tuple[str, int], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Returns the stored name of each weight of a head, by its name in `head_weights`.

    Args:
        head: the output that it makes, and the number of its labels.
        shapes: the shapes of the stored weights.

    Raises:
        ModelError: a weight is missing, or has another shape.
    """
    output, labels = head
    expected = dict(head_weights(config, output, labels))
    names = {name: _stored(family, output, name, shapes) for name in expected}
    missing, wrong = _faults(expected, names, shapes)
    again = "fetch config.json and weights again"
    for what, which, hint in (
        ("are missing", missing, f"{again}, or drop {output} from model.outputs"),
        ("are of another shape", wrong, f"they are not of one checkpoint: {again}"),
    ):
        if which:
            where = str(config.path.parent)
            raise ModelError(f"weights of the head for {output} {what}", where, named(which, ", "), hint)
    return names


def _faults(
    expected: Mapping[str, tuple[int, ...]], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[str], list[str]]:
    """Returns which of the expected weights are missing, and which are of another shape."""
    missing = [name for name, stored in names.items() if stored not in shapes]
    wrong = [
        f"{name} {shapes[names[name]]}, not {shape}"
        for name, shape in expected.items()
        if names[name] in shapes and shapes[names[name]] != shape
    ]
    return missing, wrong


def head_weights(config: ModelConfig, output: str, labels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the name in `heads` and the shape of each weight of the head that makes an output."""
    hidden = config.size("hidden_size")
    layers = {"pooler": hidden} if output == "classification" else {}
    for layer, size in (layers | {"classifier": labels}).items():
        yield f"{layer}.weight", (size, hidden)
        yield f"{layer}.bias", (size,)


def _stored(family: Family, output: str, name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Returns the stored name of a head's weight: its own layers have no prefix, BERT's pooler has one."""
    layer, _, kind = name.rpartition(".")
    names = family.HEAD_NAMES if output == "classification" else {}
    stored = f"{names.get(layer, layer)}.{kind}"
    return stored if stored in shapes else family.PREFIX + stored


def _surplus(family: Family, config: ModelConfig, which: Sequence[str]) -> tuple[str, str]:
    """Returns what to say of weights beside a whole encoder, and what to do."""
    layers = {name.split(".")[0] for name in dict(family.weights(config))}
    if own_code(config) or any(name.removeprefix(family.PREFIX).split(".")[0] in layers for name in which):
        return "weights are unexpected", _advice(config)  # more layers than config.json says
    kind = "of a CRF head" if any(map(_CRF.search, which)) else f"of something beside {family.NAME}"
    hint = "if they come after the encoder, save it alone (its own save_pretrained), and name that folder"
    return f"weights {kind} are unexpected", hint


def _advice(config: ModelConfig) -> str:
    if code := own_code(config):
        return f"config.json names code of its own ({code}), which is never run: name a checkpoint without it"
    return "config.json and weights are not of one checkpoint: fetch both again"
