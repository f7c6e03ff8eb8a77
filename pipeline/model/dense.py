"""Loads the Dense layers of a sentence-transformers folder, which follow the pooling."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import ModelError
from pipeline.model.sentence_transformers import Dense


def dense_layer(dense: Dense, device: torch.device) -> torch.nn.Module:
    """Loads a Dense module of a sentence-transformers folder, in float32."""
    linear = torch.nn.Linear(dense.inputs, dense.outputs, bias=dense.bias)
    try:
        weights = load_file(dense.weights)
        linear.load_state_dict(
            {name.removeprefix("linear."): tensor.float() for name, tensor in weights.items()}, strict=True
        )
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(
            "is not the Dense layer of its config",
            str(dense.weights),
            str(error).splitlines()[0],
            hint="fetch the model's folder again",
        ) from None
    activation = getattr(torch.nn, dense.activation)()
    return torch.nn.Sequential(linear, activation).to(device).eval().requires_grad_(False)
