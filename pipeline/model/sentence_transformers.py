"""Reads what a sentence-transformers folder puts around its transformer, without that library.

Module types come from a fixed list and are never imported by name. Dense weights are read from safetensors.
Formats: `modules.json`, `<n>_Pooling/config.json`, `<n>_Dense/config.json`, `sentence_bert_config.json` and
`config_sentence_transformers.json`, as sentence-transformers 2 to 6 write them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import parsing
from pipeline.errors import ModelError

POOLING = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
"""The library's names of pooling modes, and ours. Several are concatenated; flags give them this order."""
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The flags that versions before 6 write instead of `pooling_mode`."""
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The files where versions of the library keep the transformer's settings; the first that exists counts."""
OLDER = {"sentence_transformers.models.ALBERT": "Transformer"}
"""Modules of the library before version 0.3 that are still in folders, and what they are called now."""
UNLIMITED = 1e40
WIDEST = 1 << 20
"""The largest dimension of a Dense layer that is accepted: far beyond any real one."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after the pooling: weights of shape (outputs, inputs) in `folder`."""

    folder: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"


@dataclass(frozen=True, slots=True)
class Modules:
    """A sentence-transformers folder: the path of its transformer, and the steps before and after it.

    prefix: the default prompt, which is put before each text; empty if there is none.
    prompts: all prompts by name.
    """

    transformer: Path
    pooling: tuple[str, ...]
    dense: tuple[Dense, ...]
    normalize: bool
    max_tokens: int | None
    prefix: str
    prompts: Mapping[str, str]
    include_prompt: bool


def read_modules(folder: Path) -> Modules | None:
    """Returns the modules of a folder; None if it is not a sentence-transformers folder.

    Raises:
        ModelError: the folder asks for something that is not supported.
    """
    path = folder / "modules.json"
    if not path.exists():
        return None
    listed = _json(path)
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise ModelError("is not a list of modules", str(path), hint="fetch the folder again")
    kinds = [str(module.get("type", "")) for module in listed]
    names = [OLDER.get(kind, kind.rsplit(".", 1)[-1]) for kind in kinds]
    wanted = ["Transformer", "Pooling", *["Dense"] * names.count("Dense"), "Normalize"]
    if names not in (wanted, wanted[:-1]) or not all(
        kind.startswith("sentence_transformers.") for kind in kinds
    ):
        hint = "Transformer, Pooling, any Dense, and Normalize last or not at all are known"
        raise ModelError("has modules that we don't know", str(path), ", ".join(kinds), hint)
    folders = [_inside(folder, str(module.get("path", "")), path) for module in listed]
    settings = next(filter(None, (_settings(folders[0], name) for name in SETTINGS)), {})
    if settings.get("do_lower_case"):
        raise ModelError(
            "do_lower_case is not supported",
            str(folders[0]),
            hint="lower-case in the tokenizer, and drop it there",
        )
    pooling = _mapping(folders[1] / "config.json")
    return Modules(
        transformer=folders[0],
        pooling=_pooling(pooling, folders[1]),
        include_prompt=bool(pooling.get("include_prompt", True)),
        dense=tuple(_dense(where) for where, name in zip(folders, names, strict=True) if name == "Dense"),
        normalize=names[-1] == "Normalize",
        max_tokens=_limit(settings, "max_seq_length", folders[0])
        or _limit(_settings(folders[0], "tokenizer_config.json"), "model_max_length", folders[0]),
        **_prompts(folder),
    )


def _limit(settings: Mapping[str, Any], name: str, folder: Path) -> int | None:
    """Returns a limit of tokens, or None. Some folders write 10^30 and mean no limit."""
    value = settings.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= UNLIMITED:
        raise ModelError(f"{name} is not a length", str(folder), repr(value), hint="fetch the folder again")
    return int(value)


def _prompts(folder: Path) -> dict[str, Any]:
    """Returns the default prompt and all prompts, as fields of `Modules`."""
    name = "config_sentence_transformers.json"
    settings = _settings(folder, name)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not isinstance(default, str | None):
        raise ModelError("has prompts without names", str(folder / name), hint="fetch the folder again")
    if not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise ModelError("has a prompt that is not a text", str(folder / name), hint="fetch the folder again")
    named = {prompt: text or "" for prompt, text in prompts.items()}
    return {"prefix": named.get(default, ""), "prompts": named}


def _pooling(settings: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    named = settings.get("pooling_mode") or [mode for flag, mode in FLAGS.items() if settings.get(flag)]
    modes = named if isinstance(named, list) and named else [named or "mean"]
    if unknown := [str(mode) for mode in modes if not isinstance(mode, str) or mode not in POOLING]:
        raise ModelError(
            "pooling_mode is unknown",
            str(folder / "config.json"),
            ", ".join(unknown),
            hint="name the transformer's folder alone, and set model.pooling",
        )
    return tuple(POOLING[mode] for mode in modes)


def _dense(folder: Path) -> Dense:
    where = folder / "config.json"
    settings = _mapping(where)
    activation = str(settings.get("activation_function", "")).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        hint = f"one of {', '.join(ACTIVATIONS)}"
        raise ModelError("activation_function is unknown", str(where), repr(activation), hint)
    names = {settings.get(key, "sentence_embedding") for key in ("module_input_name", "module_output_name")}
    if settings.get("use_residual") or names - {"sentence_embedding", None}:
        raise ModelError(
            "residual and token-wise Dense layers are not supported",
            str(where),
            hint="name the transformer's folder alone",
        )
    sizes = [settings.get(key) for key in ("in_features", "out_features")]
    if not all(isinstance(size, int) and 1 <= size <= WIDEST for size in sizes):
        what = f"in_features and out_features must be integers from 1 to {WIDEST:,}"
        raise ModelError(what, str(where), repr(sizes), hint="fetch the folder again")
    dense = Dense(
        folder,
        settings["in_features"],
        settings["out_features"],
        bool(settings.get("bias", True)),
        activation,
    )
    if not dense.weights.exists():
        hint = "save the folder again with safetensors: pickled Dense layers are never read"
        raise ModelError("has no model.safetensors", str(folder), hint=hint)
    return dense


def _inside(folder: Path, path: str, where: Path) -> Path:
    found = (folder / path.replace("\0", "")).resolve()
    if "\0" in path or not found.is_relative_to(folder.resolve()):
        raise ModelError(
            "names a folder outside of its own",
            str(where),
            repr(path),
            hint="do not use this folder: it reaches for files that are not its own",
        )
    return found


def _settings(folder: Path, name: str) -> Mapping[str, Any]:
    path = folder / name
    return _mapping(path) if path.exists() else {}


def _mapping(path: Path) -> Mapping[str, Any]:
    content = _json(path)
    if not isinstance(content, dict):
        raise ModelError(
            "is not a JSON object", str(path), type(content).__name__, hint="fetch the folder again"
        )
    return content


def _json(path: Path) -> Any:
    try:
        return parsing.json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("can't be read", str(path), str(error), hint="fetch the folder again") from None
