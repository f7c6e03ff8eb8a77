"""States what config.json alone tells of an encoder that transformers runs.

`AnyEncoder` is a `families.Family`. Planning and committing use it, so it starts without torch and without
transformers, which takes 3 s to import.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ModelError
from pipeline.model.config_checks import own_code
from pipeline.model.model_config import ModelConfig

NAMES: Mapping[str, Sequence[str]] = {
    "hidden_size": ("hidden_size", "d_model", "dim", "n_embd", "emb_dim"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "n_inner"),
}
"""The names that config.json of different models gives to the same field."""
NEVER_DIGESTED = (
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "num_labels",
    "problem_type", "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip
"""Fields of config.json that decide nothing about a vector."""
AFTER_PADDING = (
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "markuplm", "mluke", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Types whose texts begin behind the position of padding, as RoBERTa's do."""


class Native(Protocol):
    """The part of a native family that counts, too, where transformers is asked to run its checkpoint."""

    DEFAULTS: Mapping[str, Any]
    ALIASES: Mapping[str, str]

    def positions(self, config: ModelConfig, /) -> int: ...


@dataclass
class AnyEncoder:
    """The facts of an encoder; see `families.Family`. Its weights are matched by transformers.

    values: the content of config.json.
    native: the family of its `model_type`, if there is one here.
    """

    values: Mapping[str, Any]
    native: Native | None = None
    NAME: str = "transformers"
    FORWARD: str = "pipeline.model.by_transformers.forward:ByTransformers"
    DEFAULTS: Mapping[str, Any] = field(default_factory=lambda: {"type_vocab_size": 1})
    LIMITS: Mapping[str, int] = field(default_factory=lambda: {"num_hidden_layers": 1000})
    PREFIX: str = ""
    HEADS: re.Pattern[str] = field(default_factory=lambda: re.compile(""))
    ARCHITECTURES: Mapping[str, str] = field(default_factory=dict)
    HEAD_NAMES: Mapping[str, str] = field(default_factory=dict)
    HEAD_ACTIVATION: str = "tanh"
    ALIASES: Mapping[str, str] = field(init=False)
    DIGESTED: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        told = {
            key: next((name for name in names if name in self.values), key) for key, names in NAMES.items()
        }
        self.ALIASES = told
        if self.native:
            self.DEFAULTS, self.ALIASES = self.native.DEFAULTS, self.native.ALIASES
        self.DIGESTED = sorted({*self.values, "hidden_size"} - {*NEVER_DIGESTED})

    def check(self, config: ModelConfig) -> None:
        """Checks what can be known without transformers.

        Raises:
            ModelError: transformers can't load it, or it is not an encoder alone.
        """
        kind, where = config.values.get("model_type"), str(config.path)
        if not is_known(str(kind)):
            code, got = own_code(config), f"model_type {kind!r}"
            if code:
                hint = "name a checkpoint whose model transformers has itself"
                raise ModelError("needs code of its own, which is never run", where, code, hint)
            hint = "name another checkpoint"
            raise ModelError("is of a type that neither this program nor transformers has", where, got, hint)
        if config.get("is_encoder_decoder"):
            hint = "save the encoder alone, and name that folder"
            raise ModelError("has a decoder beside its encoder", where, f"model_type {kind!r}", hint)
        for name in ("hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size"):
            if name in ("hidden_size", "vocab_size") or config.get(name) is not None:
                config.size(name)
        if self.positions(config) < 1:
            got = str(config.get("max_position_embeddings"))
            raise ModelError("has no positions", where, got, hint="fetch it again")

    def weights(self, _: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields nothing: transformers knows the weights and their names."""
        yield from ()

    def check_shapes(self, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Checks the sizes of config.json by the stored weights, before transformers makes a model of them.

        Raises:
            ModelError: no stored weight has such a size.
        """
        stored = {size for shape in shapes.values() for size in shape}
        for name in ("hidden_size", "vocab_size"):
            if config.size(name) not in stored:
                hint = "config.json and weights are not of one checkpoint: fetch both again"
                raise ModelError(
                    f"weights have another {name}", str(config.path), str(config.size(name)), hint
                )

    def positions(self, config: ModelConfig) -> int:
        """Returns the most tokens of a text."""
        if self.native:
            return self.native.positions(config)
        most = config.size("max_position_embeddings")
        if config.values.get("model_type") in AFTER_PADDING:
            return most - 1 - int(config.get("pad_token_id") or 0)
        return most

    def flops_per_token(self, config: ModelConfig) -> float:
        """Returns roughly the matrix work of one token in all layers, without attention."""
        hidden, layers = config.size("hidden_size"), config.get("num_hidden_layers") or 12
        inner = config.get("intermediate_size") or 4 * hidden
        return 2.0 * layers * (4 * hidden * hidden + 2 * hidden * inner)


@cache
def is_known(kind: str) -> bool:
    """Tells whether the transformers that is installed has models of a `model_type`; does not import it."""
    return f'"{kind}"' in _types()


@cache
def _types() -> str:
    """Returns the text of the files in which transformers lists its types."""
    found = find_spec("transformers")
    if found is None or found.origin is None:
        hint = "install it"
        raise ModelError("this model needs transformers, which is not installed", "transformers", hint=hint)
    folder = Path(found.origin).parent / "models" / "auto"
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*auto*.py")))
