"""Checks what the families have in common in a config.json. Starts without torch."""

import math

from pipeline.errors import ModelError
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.model_config import ModelConfig


def check_layers(config: ModelConfig) -> None:
    """Checks what would otherwise fail on the replicas.

    Raises:
        ModelError: no replica could load these layers.
    """
    where, activation, epsilon = str(config.path), str(config.get("hidden_act")), config.get("layer_norm_eps")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ModelError("hidden_act is unknown", where, repr(activation), f"one of {known}")
    if not isinstance(epsilon, float) or not 0 < epsilon < math.inf:
        hint = "fetch the checkpoint again"
        raise ModelError("layer_norm_eps must be a small positive float", where, repr(epsilon), hint)
    config.size("num_hidden_layers")
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden % heads:
        raise ModelError(
            "num_attention_heads must divide hidden_size",
            where,
            f"{heads} and {hidden}",
            hint="fetch the checkpoint again",
        )


def own_code(config: ModelConfig) -> str | None:
    """Returns the code of its own that config.json names for the model; None if it names none."""
    found = config.values.get("auto_map")
    codes = found.values() if isinstance(found, dict) else ()
    return next((code for code in codes if isinstance(code, str)), None)
