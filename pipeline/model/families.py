"""The families of models, by config.json's `model_type`: a new one is a package beside this file and a line.

A family is two modules: its facts (`Family`, without torch), and its forward pass over packed texts
(`transformer.Transformer`), which is named here and imported by who runs it. All else of the pipeline asks a
config.json for `vocab_size`, `max_position_embeddings` and `hidden_size` alone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ModelError
from pipeline.model.albert import geometry as albert
from pipeline.model.model_config import ModelConfig


class Family(Protocol):
    """The facts of a family, as its module states them.

    NAME: for messages.
    FORWARD: `module:class` of its `Transformer`.
    DEFAULTS: what transformers takes where config.json says nothing.
    DIGESTED: the fields of config.json that decide about the arithmetic, for the vector digest. Those of a
        family stay as they are, since older datasets have a digest of them; a new one has `model_type`, too.
    LIMITS: the most of sizes that no weight has.
    PREFIX: what a checkpoint for a task puts before the weights' names.
    HEADS: weights of tasks that a checkpoint may carry beside those of `weights`.
    """

    NAME: str
    FORWARD: str
    DEFAULTS: Mapping[str, Any]
    DIGESTED: Sequence[str]
    LIMITS: Mapping[str, int]
    PREFIX: str
    HEADS: re.Pattern[str]

    def check(self, config: ModelConfig, /) -> None: ...
    def weights(self, config: ModelConfig, /) -> Iterator[tuple[str, tuple[int, ...]]]: ...
    def flops_per_token(self, config: ModelConfig, /) -> float: ...


FAMILIES: Mapping[str, Family] = {"albert": albert}


def family_of(config: Any, path: Path) -> Family:
    """Returns the family of a parsed config.json.

    Raises:
        ModelError: there is none of its `model_type`.
    """
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if not isinstance(config, dict) or not isinstance(kind, str) or kind not in FAMILIES:
        names = " or ".join(family.NAME for family in FAMILIES.values())
        raise ModelError(
            f"is no {names} checkpoint",
            str(path),
            f"model_type {kind!r}",
            hint=f"name a folder whose config.json says model_type {' or '.join(FAMILIES)}",
        )
    return FAMILIES[kind]
