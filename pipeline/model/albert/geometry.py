"""States ALBERT's facts: defaults and checks of its config.json, its weights, its work per token.

This module is a `families.Family`. Planning and committing use it, so it starts without torch.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.model.config_checks import check_layers
from pipeline.model.model_config import ModelConfig

NAME = "ALBERT"
FORWARD = "pipeline.model.albert.forward:Albert"
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 30_000, "embedding_size": 128, "hidden_size": 4096, "num_hidden_layers": 12,
    "num_hidden_groups": 1, "num_attention_heads": 64, "intermediate_size": 16_384, "inner_group_num": 1,
    "hidden_act": "gelu_new", "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
DIGESTED: Sequence[str] = (
    "num_hidden_layers", "num_hidden_groups", "inner_group_num", "hidden_size", "num_attention_heads",
    "intermediate_size", "embedding_size", "hidden_act", "layer_norm_eps",
)  # fmt: skip
ALIASES: Mapping[str, str] = {}
LIMITS: Mapping[str, int] = {"num_hidden_layers": 1000, "num_hidden_groups": 100, "inner_group_num": 100}
"""Limits far beyond any model. More would use up memory or a device's time before anyone saw why."""
PREFIX = "albert."
HEADS = re.compile(r"(albert\.)?pooler|predictions|sop_classifier|classifier|qa_outputs|.*position_ids$")
ARCHITECTURES: Mapping[str, str] = {
    "classification": "AlbertForSequenceClassification",
    "entities": "AlbertForTokenClassification",
}
HEAD_NAMES: Mapping[str, str] = {"pooler": "pooler", "classifier": "classifier"}
HEAD_ACTIVATION = "tanh"


def check(config: ModelConfig) -> None:
    """Checks what would otherwise fail on the replicas.

    Raises:
        ModelError: no replica could load this geometry.
    """
    check_layers(config)


def weights(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the name and shape of each weight that the forward pass needs."""
    hidden, inner, embedding = (
        config.size(key) for key in ("hidden_size", "intermediate_size", "embedding_size")
    )
    for table, key in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        yield f"embeddings.{table}_embeddings.weight", (config.size(key), embedding)
    yield from _pair("embeddings.LayerNorm", (embedding,))
    yield from _pair("encoder.embedding_hidden_mapping_in", (hidden, embedding))
    for group in range(config.size("num_hidden_groups")):
        for layer in range(config.size("inner_group_num")):
            prefix = f"encoder.albert_layer_groups.{group}.albert_layers.{layer}"
            for part in ("query", "key", "value", "dense"):
                yield from _pair(f"{prefix}.attention.{part}", (hidden, hidden))
            yield from _pair(f"{prefix}.attention.LayerNorm", (hidden,))
            yield from _pair(f"{prefix}.ffn", (inner, hidden))
            yield from _pair(f"{prefix}.ffn_output", (hidden, inner))
            yield from _pair(f"{prefix}.full_layer_layer_norm", (hidden,))


def positions(config: ModelConfig) -> int:
    """Returns the most tokens of a text."""
    return config.size("max_position_embeddings")


def flops_per_token(config: ModelConfig) -> float:
    """Returns the matrix work of one token in all layers, without attention, whose work grows with length."""
    hidden, inner = config.size("hidden_size"), config.size("intermediate_size")
    layers = config.size("num_hidden_layers") * config.size("inner_group_num")
    return 2.0 * layers * (4 * hidden * hidden + 2 * hidden * inner)


def _pair(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
