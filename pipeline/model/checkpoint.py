"""A model reference becomes a folder on this node, checked without torch.

Owns: what a usable ALBERT checkpoint is. Everything that can be wrong with one is found here, by the driver,
before any worker is asked for. Weights are read from safetensors; from a pickle only where the config allows
it, and then by torch's reader of bare weights.
"""

import hashlib
import math
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open

from pipeline import parsing, telemetry
from pipeline.errors import HubBusyError, ModelError
from pipeline.model.sentence_transformers import SETTINGS, Modules, read_modules

BUILT_IN = "albert-mini"
ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "relu", "silu", "tanh")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.txt", "tokenizer_config.json")
PICKLE = "pytorch_model.bin"
INDEX = "model.safetensors.index.json"
_NEEDED = ("config.json", *SETTINGS, *TOKENIZER_FILES, "model.safetensors", "model-*.safetensors", INDEX)
DOWNLOADED = [
    "modules.json", "config_sentence_transformers.json", *_NEEDED, *(f"[0-9]_*/{name}" for name in _NEEDED)
]  # fmt: skip
ELSEWHERE = ["[!0-9]*/*", "?[!_]*/*", "*/*/*"]
"""What is never downloaded, for to the Hub `*` matches `/`, too: other folders, and those inside others."""
BUSY, SERVER_ERROR = (408, 425, 429), 500
"""HTTP status of a Hub that may give later what it does not give now."""
BUSY_PAUSES_SECONDS = (2.0, 10.0, 30.0)
"""Before it is asked again, about."""
_PACKAGED = Path(__file__).parent / BUILT_IN
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_COMMIT = re.compile(r"snapshots/([0-9a-f]{40})$")
_PART = re.compile(r"[\w.-]+\.safetensors")
_HEADS = re.compile(r"(albert\.)?pooler|predictions|sop_classifier|classifier|qa_outputs|.*position_ids$")
"""Weights of other tasks that a checkpoint may carry beside the encoder's."""
MOST = {"num_hidden_layers": 1000, "num_hidden_groups": 100, "inner_group_num": 100}
"""Far beyond any model: more would take the driver's memory, or a device's time, before anyone saw why."""
LARGEST = 1 << 24
"""Of all other sizes; the weights have them, too."""


@dataclass(frozen=True)
class Checkpoint:
    """An ALBERT checkpoint in a local folder; `modules` where sentence-transformers saved it."""

    name: str
    folder: Path
    revision: str | None = None
    modules: Modules | None = None
    allow_pickle: bool = False

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json."""
        path = self.folder / "config.json"
        try:
            config = parsing.json_value(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                "can't be read",
                str(path),
                str(error),
                hint="a checkpoint has a config.json: check model.name",
            ) from None
        if not isinstance(config, dict) or config.get("model_type") != "albert":
            kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
            raise ModelError(
                "is no ALBERT checkpoint",
                str(path),
                f"model_type {kind!r}",
                hint="name a folder whose config.json says model_type albert",
            )
        return config

    def _check_geometry(self) -> None:
        """What would otherwise be found out on the replicas."""
        where = str(self.folder / "config.json")
        if self.activation not in ACTIVATIONS:
            raise ModelError(
                "hidden_act is unknown", where, repr(self.activation), f"one of {', '.join(ACTIVATIONS)}"
            )
        if not isinstance(self.epsilon, float) or not 0 < self.epsilon < math.inf:
            hint = "fetch the checkpoint again"
            raise ModelError("layer_norm_eps must be a small positive float", where, repr(self.epsilon), hint)
        self.size("num_hidden_layers")
        hidden, heads = self.size("hidden_size"), self.size("num_attention_heads")
        if hidden % heads:
            raise ModelError(
                "num_attention_heads must divide hidden_size",
                where,
                f"{heads} and {hidden}",
                hint="fetch the checkpoint again",
            )

    @property
    def activation(self) -> str:
        """Of the feed-forward network, one of `ACTIVATIONS`."""
        return str(self.config.get("hidden_act", "gelu_new"))

    @property
    def epsilon(self) -> float:
        """What layer norms add to a variance."""
        return self.config.get("layer_norm_eps", 1e-12)  # type: ignore[no-any-return]

    def size(self, key: str, default: int | None = None) -> int:
        """A number of config.json."""
        value = self.config.get(key, default)
        most = MOST.get(key, LARGEST)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(
                f"{key} must be a positive integer, at most {most:,}",
                str(self.folder / "config.json"),
                repr(value),
                hint="fetch the checkpoint again",
            )
        return value

    @cached_property
    def weight_files(self) -> list[Path]:
        """The transformer's weights: `model.safetensors`, or the parts that its index names."""
        if (self.folder / "model.safetensors").exists():
            return [self.folder / "model.safetensors"]
        if (self.folder / INDEX).exists():
            return sorted(self._parts())
        if not (self.folder / PICKLE).exists():
            raise ModelError(
                "no model.safetensors here", str(self.folder), hint="name the folder that has the weights"
            )
        if not self.allow_pickle:
            hint = f"convert {PICKLE}, or set model.allow_pickle if you trust where it comes from"
            raise ModelError("no model.safetensors here", str(self.folder), hint=hint)
        return [self.folder / PICKLE]

    def _parts(self) -> set[Path]:
        """The files that the index names."""
        where, hint = self.folder / INDEX, "fetch the checkpoint again"
        try:
            names = set(parsing.json_value(where.read_text(encoding="utf-8"))["weight_map"].values())
            parts = {Path(name).name for name in names}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError("is no index of weights", str(where), parsing.brief(error), hint) from None
        if not parts or not all(map(_PART.fullmatch, parts)):
            raise ModelError("names no files of weights", str(where), ", ".join(sorted(parts)), hint)
        return {self.folder / part for part in parts}

    @property
    def pickled(self) -> bool:
        """Whether the weights are a pickle, which only torch can look into."""
        return self.weight_files[0].name == PICKLE

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weight files, Dense layers' among them."""
        dense = self.modules.dense if self.modules else ()
        return _digest_files([*self.weight_files, *(layer.weights for layer in dense)])

    @cached_property
    def tokenizer_digest(self) -> str:
        """SHA-256 of the files that decide the token ids."""
        return _digest_files([path for name in TOKENIZER_FILES if (path := self.folder / name).exists()])

    @property
    def flops_per_token(self) -> float:
        """Matrix work of one token in all layers, attention's part (which grows with length) left out."""
        hidden, inner = self.size("hidden_size"), self.size("intermediate_size")
        layers = self.size("num_hidden_layers") * self.size("inner_group_num", 1)
        return 2.0 * layers * (4 * hidden * hidden + 2 * hidden * inner)

    def check(self) -> None:
        """Find what is wrong with the weights, as far as that takes no torch.

        Raises:
            ModelError: geometry or weights can't be used.
        """
        self._check_geometry()
        if not self.pickled:
            self.match({name: shape for name, (_, shape) in self.stored().items()})

    def match(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        """For each weight that the encoder needs, by its name in the model: its name among the stored ones.

        Args:
            shapes: of the stored weights.

        Raises:
            ModelError: a weight is missing, has another shape, or is none that we know.
        """
        names = {name: name if name in shapes else f"albert.{name}" for name, _ in self._expected()}
        missing = [name for name, stored in names.items() if stored not in shapes]
        unexpected = [name for name in shapes if name not in names.values() and not _HEADS.match(name)]
        wrong = [
            f"{name} {shapes[names[name]]}, not {shape}"
            for name, shape in self._expected()
            if names[name] in shapes and shapes[names[name]] != shape
        ]
        for what, which in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong)):
            if which:
                more = f" and {len(which) - 3} more" if len(which) > 3 else ""
                raise ModelError(
                    f"weights are {what}",
                    str(self.folder),
                    ", ".join(which[:3]) + more,
                    hint="config.json and weights are not of one checkpoint: fetch both again",
                )
        return names

    def stored(self) -> dict[str, tuple[Path, tuple[int, ...]]]:
        """File and shape of every weight in the safetensors."""
        return dict(self._stored())

    def _stored(self) -> Iterator[tuple[str, tuple[Path, tuple[int, ...]]]]:
        for path in self.weight_files:
            try:
                with safe_open(path, framework="numpy") as file:
                    for name in file.keys():  # noqa: SIM118  (no mapping)
                        yield name, (path, tuple(file.get_slice(name).get_shape()))
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    "can't be read as safetensors", str(path), str(error), hint="fetch it again"
                ) from None

    def _expected(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, inner, embedding = (
            self.size(key) for key in ("hidden_size", "intermediate_size", "embedding_size")
        )
        for table, rows in (
            ("word", self.size("vocab_size")),
            ("position", self.size("max_position_embeddings")),
            ("token_type", self.size("type_vocab_size", 2)),
        ):
            yield f"embeddings.{table}_embeddings.weight", (rows, embedding)
        yield from _pair("embeddings.LayerNorm", (embedding,))
        yield from _pair("encoder.embedding_hidden_mapping_in", (hidden, embedding))
        for group in range(self.size("num_hidden_groups", 1)):
            for layer in range(self.size("inner_group_num", 1)):
                prefix = f"encoder.albert_layer_groups.{group}.albert_layers.{layer}"
                for part in ("query", "key", "value", "dense"):
                    yield from _pair(f"{prefix}.attention.{part}", (hidden, hidden))
                yield from _pair(f"{prefix}.attention.LayerNorm", (hidden,))
                yield from _pair(f"{prefix}.ffn", (inner, hidden))
                yield from _pair(f"{prefix}.ffn_output", (hidden, inner))
                yield from _pair(f"{prefix}.full_layer_layer_norm", (hidden,))


def resolve(name: str, revision: str | None = None, *, allow_pickle: bool = False) -> Checkpoint:
    """The checkpoint that a name means: built in, a folder, or a Hub id (fetched, pinned to its commit).

    Raises:
        ModelError: there is none of that name, or it is of a kind that we can't honour.
    """
    if revision and (name == BUILT_IN or Path(name).is_dir()):
        raise ModelError("a folder has no revisions", f"model.revision = {revision!r}", hint="drop it")
    commit = None
    if name == BUILT_IN:
        folder = _PACKAGED
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        if _HUB_ID.fullmatch(name):
            telemetry.event("model.name is a folder here, so the Hub is not asked", folder=folder)
    else:
        folder, commit = _fetch(name, revision, [PICKLE] if allow_pickle else [])
    modules = read_modules(folder)
    return Checkpoint(name, modules.transformer if modules else folder, commit, modules, allow_pickle)


def _fetch(name: str, revision: str | None, more: list[str]) -> tuple[Path, str | None]:
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            "is neither a folder here nor a Hub id",
            f"model.name = {name!r}",
            hint="name albert-mini, a folder that is there, or a Hub id such as albert/albert-base-v2",
        )
    folder = _downloaded(name, revision, [*DOWNLOADED, *more])
    commit = _COMMIT.search(folder.as_posix())
    return folder, commit.group(1) if commit else revision


def _downloaded(name: str, revision: str | None, files: list[str]) -> Path:
    pauses = iter(BUSY_PAUSES_SECONDS)
    while True:
        try:
            return Path(_snapshot(name, revision, files))
        except Exception as error:  # its client raises what its own libraries raise
            refused = _not_given(name, error)
        pause = next(pauses, None) if isinstance(refused, HubBusyError) else None
        if pause is None:
            raise refused
        time.sleep(pause * random.uniform(0.5, 1.5))  # a cluster's processes all ask at the same time


def _snapshot(name: str, revision: str | None, files: list[str]) -> str:
    return snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=ELSEWHERE)


def _not_given(name: str, error: Exception) -> ModelError:
    where = f"model.name = {name!r}"
    elsewhere = "put the folder where each node finds it and name that"
    answers = [each.response for each in (error, error.__cause__) if isinstance(each, HfHubHTTPError)]
    for answer in answers:
        if answer.status_code in BUSY or answer.status_code >= SERVER_ERROR:
            got, hint = f"HTTP {answer.status_code} {answer.reason_phrase}", f"run again, or {elsewhere}"
            return HubBusyError("is no folder here, and the Hub has no time for it", where, got, hint)
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    hint = f"check the name, or {elsewhere}"
    return ModelError("is no folder here, and the Hub does not give it", where, reason, hint)


def _pair(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


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
