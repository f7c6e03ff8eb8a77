"""Resolves all settings that turn a text into a vector: the driver decides, the replicas follow.

The vector digest covers these settings, the weights and the tokenizer.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from pipeline.config.sections import Config, Model
from pipeline.errors import ModelError
from pipeline.model import outputs
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.head_facts import classes_of, tags_of
from pipeline.model.output_spec import EMBEDDING, Classes, OutputSpec, Tags
from pipeline.model.sentence_transformers import Dense
from pipeline.model.trained_head import TrainedHead

MAX_TOKENS = 512


def vector_dimension(hidden_size: int, modes: int, dense_width: int | None, truncate_dim: int | None) -> int:
    """Returns the length of a vector.

    Args:
        modes: number of pooling modes, whose vectors are concatenated.
        dense_width: outputs of the last Dense layer; None without such layers.
        truncate_dim: dimensions that are kept; None keeps all.
    """
    return truncate_dim or (hidden_size * modes if dense_width is None else dense_width)


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """The settings from text to stored outputs, with all defaults resolved.

    pooling: modes, whose vectors are concatenated.  dense: layers after it.  truncate_dim: dimensions kept.
    outputs: what is kept of a text.
    classes, tags: what the heads of `classification` and `entities` tell apart, if they are asked for.
    head: a head over the vector, which takes the place of the checkpoint's own.
    prefixes: pairs of a source and its prefix, for the sources whose prefix is another than `prefix`.
    """

    max_tokens: int = MAX_TOKENS
    prefix: str = ""
    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[Dense, ...] = ()
    normalize: bool = True
    truncate_dim: int | None = None
    long_text: str = "truncate"
    chunk_overlap: int = 0
    vector: str = "float32"
    outputs: tuple[str, ...] = EMBEDDING
    classes: Classes | None = None
    tags: Tags | None = None
    head: TrainedHead | None = None
    prefixes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_config(cls, checkpoint: Checkpoint, config: Config) -> Self:
        """Resolves what a config asks of a checkpoint, for all of its sources.

        Raises:
            ModelError: the checkpoint can't do it.
        """
        found = cls.of(checkpoint, config.model)
        stated = {
            name: prefix_of(checkpoint, source.prefix, source.prompt, f"source.{name}")
            for name, source in config.source.items()
            if source.has_prefix
        }
        others = sorted((name, prefix) for name, prefix in stated.items() if prefix != found.prefix)
        return replace(found, prefixes=tuple(others))

    def of_source(self, name: str) -> Self:
        """Returns the settings for the texts of a source: those with its prefix."""
        return replace(self, prefix=dict(self.prefixes).get(name, self.prefix), prefixes=())

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: Model | None = None, head: TrainedHead | None = None) -> Self:
        """Resolves what a config asks of a checkpoint; without `model`, returns the checkpoint's defaults.

        Args:
            head: what the driver read at `model.head`; by default it is read.

        Raises:
            ModelError: the checkpoint can't do it.
        """
        model = model or Model()
        own = checkpoint.modules
        if own and own.dense and model.pooling != "auto":
            hint = "leave it at auto, or copy the transformer's files alone"
            raise ModelError(
                "has Dense layers made for its own pooling", "model.pooling", model.pooling, hint
            )
        pooling = own.pooling if own else ("mean",)
        head = head or (checkpoint.trained_head(model.head) if model.head else None)
        recipe = cls(
            max_tokens=_max_tokens(checkpoint, model),
            prefix=prefix_of(checkpoint, model.prefix, model.prompt, "model"),
            pooling=pooling if model.pooling == "auto" else (model.pooling,),
            dense=own.dense if own else (),
            normalize=(own.normalize if own else True) if model.normalize is None else model.normalize,
            truncate_dim=model.truncate_dim,
            long_text=model.long_text,
            chunk_overlap=0 if model.long_text == "truncate" else model.chunk_overlap,
            vector=model.vector,
            outputs=model.outputs,
            classes=_classes(checkpoint, model, head),
            tags=tags_of(checkpoint, model) if "entities" in model.outputs else None,
            head=head,
        )
        recipe.check(checkpoint)
        return recipe

    def check(self, checkpoint: Checkpoint) -> None:
        """Checks that config and checkpoint agree.

        Raises:
            ModelError: they do not.
        """
        positions = checkpoint.positions
        if self.max_tokens > positions:
            what, hint = (
                "model.max_tokens is more than the model has positions",
                f"set it to {positions} or less",
            )
            raise ModelError(what, checkpoint.name, str(self.max_tokens), hint)
        width = self.pooled_dimension(checkpoint)
        for dense in self.dense:
            if dense.inputs != width:
                raise ModelError(
                    "in_features does not fit",
                    str(dense.folder),
                    f"{dense.inputs}, not {width}",
                    hint="fetch the folder again",
                )
            width = dense.outputs
        if self.truncate_dim and self.truncate_dim > width:
            raise ModelError(
                "model.truncate_dim is more than the vector has",
                checkpoint.name,
                f"{self.truncate_dim} of {width}",
                hint="lower it",
            )
        if self.head and self.head.weight.shape[1] != self.dimension(checkpoint):
            got = f"{self.head.weight.shape[1]} dimensions, not {self.dimension(checkpoint)}"
            hint = "train it on a dataset of this config (jobs.train_head)"
            raise ModelError("was trained on other vectors", self.head.where, got, hint)

    def pooled_dimension(self, checkpoint: Checkpoint) -> int:
        return checkpoint.size("hidden_size") * len(self.pooling)

    def dimension(self, checkpoint: Checkpoint) -> int:
        """Returns the length of a vector."""
        width = self.dense[-1].outputs if self.dense else None
        return vector_dimension(checkpoint.size("hidden_size"), len(self.pooling), width, self.truncate_dim)

    def output_spec(self, checkpoint: Checkpoint) -> OutputSpec:
        """Returns the description of the outputs, which decides their columns."""
        dimension, hidden_size = self.dimension(checkpoint), checkpoint.size("hidden_size")
        return OutputSpec(self.outputs, self.vector, dimension, self.classes, self.tags, hidden_size)

    @property
    def heads(self) -> dict[str, int]:
        """Returns the outputs that take a head of the checkpoint, and how many scores each head gives."""
        scores = {
            "classification": None if self.head else self.classes and self.classes.labels,
            "entities": self.tags and self.tags.tags,
        }
        return {output: len(found) for output, found in scores.items() if found}

    @property
    def of_tokens(self) -> bool:
        """Tells whether an output has something of each token, and so needs the places of tokens."""
        return bool(outputs.of_tokens(self.outputs))

    @property
    def chunked(self) -> bool:
        """Tells whether a text may become several rows."""
        return self.long_text == "chunks"

    def fields(self) -> dict[str, Any]:
        """Returns the settings by name, for a digest: contents without paths.

        The outputs are left out if there is only the vector, and the sources' prefixes if there are none, as
        in older datasets.
        """
        dense = [{**asdict(layer), "folder": None} for layer in self.dense]
        found = {**asdict(replace(self, head=None)), "pooling": "+".join(self.pooling), "dense": dense}
        del found["outputs"], found["classes"], found["tags"], found["head"], found["prefixes"]
        if self.prefixes:
            found["prefixes"] = dict(self.prefixes)
        if self.outputs != EMBEDDING:
            found["outputs"] = list(self.outputs)
        if self.classes:
            found["classes"] = self.classes.fields()
        if self.tags:
            found["tags"] = self.tags.fields()
        if self.head:
            found["head"] = self.head.digest
        return found


def _classes(checkpoint: Checkpoint, model: Model, head: TrainedHead | None) -> Classes | None:
    if "classification" not in model.outputs:
        return None
    return head.classes if head else classes_of(checkpoint, model)


def prefix_of(checkpoint: Checkpoint, prefix: str | None, prompt: str | None, where: str) -> str:
    """Returns what is put before each text.

    Args:
        prefix: a text of the caller's, which may be empty.
        prompt: the name of one of the checkpoint's prompts. Without both its default prompt counts.
        where: the section of the config that states one of them.

    Raises:
        ModelError: the checkpoint has no such prompt, or does not pool the tokens of prompts.
    """
    own = checkpoint.modules
    prompts = own.prompts if own else {}
    if prompt is not None and prompt not in prompts:
        names = ", ".join(prompts)
        hint = f"one of {names}, or state {where}.prefix" if names else f"state {where}.prefix instead"
        raise ModelError("has no prompt of this name", checkpoint.name, prompt, hint)
    default = own.prefix if own else ""
    found = prompts[prompt] if prompt is not None else default if prefix is None else prefix
    if found and own and not own.include_prompt:
        hint = f"set {where}.prefix to an empty text"
        raise ModelError("pools without the prompt, which is not supported", checkpoint.name, found, hint)
    return found


def _max_tokens(checkpoint: Checkpoint, model: Model) -> int:
    if model.max_tokens:
        return model.max_tokens
    own = checkpoint.modules.max_tokens if checkpoint.modules else None
    # tokenizers without a limit give 10^30
    return int(min(own or MAX_TOKENS, checkpoint.positions))
