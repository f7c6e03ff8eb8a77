"""Resolves a model reference to a folder on this node, and checks the checkpoint without torch.

Owns the definition of a usable checkpoint, with its family's facts (`families.py`). The driver finds here
whatever can be wrong with one, before any worker is requested. Weights are read from safetensors. They are
read from a pickle only if the config allows it, and then by torch's reader of bare weights.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline import parsing, telemetry
from pipeline.config.location import DEFAULT_OPTIONS, Options, is_url
from pipeline.config.sections import NO_RULES, Model, TokenizerRules
from pipeline.errors import ModelError
from pipeline.model import trained_head
from pipeline.model.by_transformers.geometry import AnyEncoder
from pipeline.model.families import Family, engine_of, family_of
from pipeline.model.fetch import bucket, hub
from pipeline.model.fetch.names import FETCHED, INDEX, PICKLE, PICKLES, TOKENIZER_FILES
from pipeline.model.model_config import ModelConfig
from pipeline.model.sentence_transformers import Modules, read_modules
from pipeline.model.trained_head import TrainedHead
from pipeline.model.weight_names import match, match_head

BUILT_IN = "albert-mini"
AS_GOOGLE = "google_albert 3"
"""Our rules for a lone `spiece.model`, as its digest has them. Version 1, unnamed, dropped all marks; version
2 those behind letters that a map folds."""
_PACKAGED = Path(__file__).parent / BUILT_IN
_PART = re.compile(r"[\w.-]+\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a local folder; it has `modules` if sentence-transformers saved it.

    revision: the Hub's commit, or the digest of a folder in object storage; None for a folder of this node.
    asked: the engine that is asked for, as the config's `model.engine`.
    """

    name: str
    folder: Path
    revision: str | None = None
    modules: Modules | None = None
    allow_pickle: bool = False
    rules: TokenizerRules = NO_RULES
    asked: str = "auto"

    @cached_property
    def config(self) -> ModelConfig:
        """Reads config.json."""
        path = self.folder / "config.json"
        try:
            values = parsing.json_value(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                "can't be read",
                str(path),
                str(error),
                hint="a checkpoint has a config.json: check model.name",
            ) from None
        family = family_of(values, path, self.asked)
        return ModelConfig(path, values, family.DEFAULTS, family.LIMITS, family.ALIASES)

    @property
    def family(self) -> Family:
        """Returns the family of its `model_type`, or that of all that transformers runs."""
        return family_of(self.config.values, self.config.path, self.asked)

    @property
    def engine(self) -> str:
        """Returns what runs it: `native` or `transformers`."""
        return engine_of(self.config.values, self.asked)

    @property
    def positions(self) -> int:
        """Returns the most tokens of a text."""
        return self.family.positions(self.config)

    def size(self, key: str) -> int:
        """Returns a size of config.json."""
        return self.config.size(key)

    @property
    def digested(self) -> Mapping[str, Any]:
        """Returns the fields of config.json that decide the arithmetic, for the vector digest."""
        return {key: self.config.get(key) for key in self.family.DIGESTED}

    @cached_property
    def weight_files(self) -> list[Path]:
        """Returns the transformer's weight files: `model.safetensors`, or the parts that its index names."""
        if (self.folder / "model.safetensors").exists():
            return [self.folder / "model.safetensors"]
        if (self.folder / INDEX).exists():
            return sorted(self._parts())
        here = (self.folder / PICKLE).exists()
        if here and self.allow_pickle and self.engine == "native":
            return [self.folder / PICKLE]
        if self.from_hub:  # where a pickle is not even fetched
            hint = f"set model.revision to {hub.CONVERTED} if its page has a pull request that adds them"
        else:
            hint = f"convert {PICKLE}" if here else "name the folder that has the weights"
        if self.engine == "native" and (here or (self.revision and not self.allow_pickle)):
            hint += ", or set model.allow_pickle if you trust where it comes from"
        raise ModelError("no model.safetensors here", str(self.folder), hint=hint)

    def _parts(self) -> set[Path]:
        """Returns the files that the index names."""
        where, hint = self.folder / INDEX, "fetch the checkpoint again"
        try:
            names = set(parsing.json_value(where.read_text(encoding="utf-8"))["weight_map"].values())
            parts = {Path(name).name for name in names}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError("is not an index of weights", str(where), parsing.brief(error), hint) from None
        if not parts or not all(map(_PART.fullmatch, parts)):
            raise ModelError("does not name files of weights", str(where), ", ".join(sorted(parts)), hint)
        return {self.folder / part for part in parts}

    @property
    def from_hub(self) -> bool:
        """Tells whether it was fetched from the Hub."""
        return self.revision is not None and not is_url(self.name)

    @property
    def pickled(self) -> bool:
        """Tells whether the weights are a pickle, which only torch can read."""
        return self.weight_files[0].name == PICKLE

    @cached_property
    def weights_digest(self) -> str:
        """Returns the SHA-256 of the weight files, with those of Dense layers."""
        dense = self.modules.dense if self.modules else ()
        return _digest_files([*self.weight_files, *(layer.weights for layer in dense)])

    @cached_property
    def tokenizer_digest(self) -> str:
        """Returns the SHA-256 of the files that decide the token ids, and of rules beside them."""
        files = _digest_files([path for name in TOKENIZER_FILES if (path := self.folder / name).exists()])
        own = [*([AS_GOOGLE] if self.is_sentencepiece else []), *map(str, self.rules.stated.items())]
        return hashlib.sha256(":".join([files, *own]).encode()).hexdigest() if own else files

    @property
    def is_sentencepiece(self) -> bool:
        """Tells whether `spiece.model` alone decides the token ids."""
        return not (self.folder / "tokenizer.json").exists() and (self.folder / "spiece.model").exists()

    @property
    def flops_per_token(self) -> float:
        """Returns one token's matrix work in all layers, without attention, whose work grows with length."""
        return self.family.flops_per_token(self.config)

    def check(self) -> None:
        """Checks geometry and weights, as far as possible without torch.

        Raises:
            ModelError: geometry or weights can't be used.
        """
        self.family.check(self.config)
        if not self.pickled:
            self.match({name: shape for name, (_, shape) in self.stored().items()})

    def match(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        """Returns the stored name of each weight that the encoder needs (`weight_names.match`).

        There is none for an encoder by transformers, which reads the weights itself.
        """
        if isinstance(self.family, AnyEncoder):
            self.family.check_shapes(self.config, shapes)
            return {}
        return match(self.family, self.config, self.folder, shapes)

    def match_head(self, output: str, labels: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        """Returns the stored name of each weight of the head that makes an output (`match_head`)."""
        return match_head(self.family, self.config, (output, labels), shapes)

    def check_head(self, output: str, labels: int) -> None:
        """Checks the weights of the head that makes an output, as far as possible without torch.

        Raises:
            ModelError: they are missing, or of another shape.
        """
        if not self.pickled:
            self.match_head(output, labels, {name: shape for name, (_, shape) in self.stored().items()})

    def trained_head(self, where: str) -> TrainedHead:
        """Returns the head in a folder or at a URL. It is read once: all parts of a run have the same.

        Raises:
            ModelError: there is none, or it is damaged.
            StorageError: the storage failed.
        """
        if where not in self._trained_heads:
            self._trained_heads[where] = trained_head.read(where)
        return self._trained_heads[where]

    @cached_property
    def _trained_heads(self) -> dict[str, TrainedHead]:
        return {}

    def stored(self) -> dict[str, tuple[Path, tuple[int, ...]]]:
        """Returns file and shape of every weight in the safetensors."""
        return dict(self._stored())

    def _stored(self) -> Iterator[tuple[str, tuple[Path, tuple[int, ...]]]]:
        for path in self.weight_files:
            try:
                with safe_open(path, framework="numpy") as file:
                    for name in file.keys():  # noqa: SIM118  (not a mapping)
                        yield name, (path, tuple(file.get_slice(name).get_shape()))
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    "can't be read as safetensors", str(path), str(error), hint="fetch it again"
                ) from None


def resolve(
    name: str,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    rules: TokenizerRules = NO_RULES,
    options: Options = DEFAULT_OPTIONS,
    engine: str = "auto",
) -> Checkpoint:
    """Returns the checkpoint of a name: built in, a folder, a URL, or a Hub id.

    What is fetched is pinned: to the commit of the Hub, or to the digest of the folder in object storage.

    Args:
        options: how to reach the object storage of a URL.
        engine: what runs it, as the config's `model.engine`.

    Raises:
        ModelError: no checkpoint has that name, or it needs something that is not supported.
        StorageError: the object storage failed.
    """
    if revision and (name == BUILT_IN or Path(name).is_dir()):
        raise ModelError("a folder has no revisions", f"model.revision = {revision!r}", hint="drop it")
    pinned, files = None, [*FETCHED, *(PICKLES if allow_pickle else [])]
    if name == BUILT_IN:
        folder = _PACKAGED
    elif is_url(name):
        folder, pinned = bucket.fetch(name, options, revision, files)
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        if hub.ID.fullmatch(name):
            telemetry.event("model.name is a folder here, so the Hub is not asked", folder=folder)
    else:
        folder, pinned = hub.fetch(name, revision, files)
    modules = read_modules(folder)
    transformer = modules.transformer if modules else folder
    return Checkpoint(name, transformer, pinned, modules, allow_pickle, rules, engine)


def of_config(model: Model, revision: str | None = None) -> Checkpoint:
    """Returns the checkpoint that a config names, with the errors of `resolve`.

    Args:
        revision: what the driver pinned it to; by default the config's revision.
    """
    return resolve(
        model.name,
        revision or model.revision,
        allow_pickle=model.allow_pickle,
        rules=model.tokenizer,
        options=model.options,
        engine=model.engine,
    )


def _digest_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(f"{path.name}:{path.stat().st_size}:".encode())
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ModelError("can't be read", str(path), str(error), hint="fetch it again") from None
    return digest.hexdigest()
