"""Lists the families of models by config.json's `model_type`.

A new family is a package beside this file and a line in it. A family is two modules: its facts (`Family`,
without torch), and its forward pass over packed texts (`transformer.Transformer`), which is named here and
imported only where it runs. A type without a family here is run by transformers (`by_transformers`), which is
one more family. The rest of the pipeline reads only `vocab_size`, `max_position_embeddings` and
`hidden_size` from a config.json.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ModelError
from pipeline.model.albert import geometry as albert
from pipeline.model.bert.geometry import BY_TYPE
from pipeline.model.by_transformers.geometry import AnyEncoder
from pipeline.model.model_config import ModelConfig
from pipeline.model.mpnet.geometry import MPNET


class Family(Protocol):
    """The facts of a family, as its module states them.

    NAME: its name in messages.
    FORWARD: `module:class` of its `Transformer`.
    DEFAULTS: the values of transformers for those that config.json leaves out.
    DIGESTED: the fields of config.json that decide the arithmetic, for the vector digest. They never
        change, because older datasets have a digest of them; a new family adds `model_type`. `hidden_size`
        is always among them: the dimension of a dataset is derived from it.
    LIMITS: the largest values of sizes that no weight has.
    ALIASES: the names that its config.json gives to fields that others call differently.
    PREFIX: the prefix of the weights' names in a checkpoint that was made for a task.
    HEADS: the names of a task's own weights, which a checkpoint may have beside those of `weights`.
    ARCHITECTURES: the class of transformers, as config.json names it, whose head makes an output.
    HEAD_NAMES: the stored names of the layers of a head of classes for texts, by their names in `heads`.
        That of tags for tokens has one layer, which all families call `classifier`.
    HEAD_ACTIVATION: what follows the first layer of a head of classes, `tanh` or `relu`.
    """

    NAME: str
    FORWARD: str
    DEFAULTS: Mapping[str, Any]
    DIGESTED: Sequence[str]
    LIMITS: Mapping[str, int]
    ALIASES: Mapping[str, str]
    PREFIX: str
    HEADS: re.Pattern[str]
    ARCHITECTURES: Mapping[str, str]
    HEAD_NAMES: Mapping[str, str]
    HEAD_ACTIVATION: str

    def check(self, config: ModelConfig, /) -> None: ...
    def weights(self, config: ModelConfig, /) -> Iterator[tuple[str, tuple[int, ...]]]: ...
    def positions(self, config: ModelConfig, /) -> int: ...
    def flops_per_token(self, config: ModelConfig, /) -> float: ...


FAMILIES: Mapping[str, Family] = {"albert": albert, **BY_TYPE, "mpnet": MPNET}


def engine_of(config: Any, asked: str) -> str:
    """Returns what runs a parsed config.json: `native`, if there is a family or it is asked for, else
    `transformers`."""
    if asked != "auto":
        return asked
    kind = config.get("model_type") if isinstance(config, dict) else None
    return "transformers" if isinstance(kind, str) and kind not in FAMILIES else "native"


def family_of(config: Any, path: Path, asked: str = "native") -> Family:
    """Returns the family of a parsed config.json.

    Args:
        asked: `auto`, `native` or `transformers`, as the config's `model.engine`.

    Raises:
        ModelError: no family has its `model_type`.
    """
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    by_transformers = engine_of(config, asked) == "transformers"
    if isinstance(config, dict) and isinstance(kind, str) and by_transformers:
        return AnyEncoder(config, FAMILIES.get(kind))
    if not isinstance(config, dict) or not isinstance(kind, str) or kind not in FAMILIES:
        names = ", ".join(dict.fromkeys(family.NAME for family in FAMILIES.values()))
        raise ModelError(
            f"is a checkpoint of none of {names}",
            str(path),
            f"model_type {kind!r}",
            hint=f"name a folder whose config.json says one of {', '.join(FAMILIES)}",
        )
    return FAMILIES[kind]
