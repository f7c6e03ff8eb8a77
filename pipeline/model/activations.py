"""Activations of feed-forward networks, by the names that transformers gives them. Starts without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Activation:
    """How an activation is computed.

    module: its class in `torch.nn`.  approximate: of a GELU, torch's argument; empty for all others.
    onednn: what oneDNN calls it and its algorithm, where it can follow a product in the same pass.
    """

    module: str
    approximate: str = ""
    onednn: tuple[str, str] | None = None

    @property
    def tanh_gelu(self) -> bool:
        """Whether it is the GELU that cuBLASLt has as the epilogue of a product."""
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
"""transformers' `gelu_new` is a chain of eight passes; torch's own is one, within 2e-6 of it, and 1.2 to 1.4
times as fast on a CPU."""
