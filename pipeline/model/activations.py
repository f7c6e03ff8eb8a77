"""Lists the activations of feed-forward networks by transformers' names. Starts without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation and the ways to compute it.

    module: its class in `torch.nn`.  approximate: torch's argument for a GELU; empty for all others.
    onednn: oneDNN's names of it and of its algorithm, if it can follow a product in the same pass.
    """

    module: str
    approximate: str = ""
    onednn: tuple[str, str] | None = None

    @property
    def tanh_gelu(self) -> bool:
        """Tells whether this is the GELU that cuBLASLt has as the epilogue of a product."""
        return self.approximate == "tanh"


_TANH_GELU = Activation("GELU", "tanh", ("gelu", "tanh"))
ACTIVATIONS = {
    "gelu_new": _TANH_GELU,
    "gelu": Activation("GELU", "none", ("gelu", "none")),
    "gelu_pytorch_tanh": _TANH_GELU,
    "relu": Activation("ReLU", onednn=("relu", "")),
    "silu": Activation("SiLU"),
    "tanh": Activation("Tanh"),
}
"""The activations. transformers computes `gelu_new` in eight passes; torch does it in one, within 2e-6 of
it, and 1.2 to 1.4 times as fast on a CPU."""
