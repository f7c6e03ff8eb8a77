"""Checks what a caller of the library asks for, with the errors of a config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.config.load import parse_section
from pipeline.config.sections import Compute, Model
from pipeline.errors import ConfigError

OUTPUTS = ("embedding", "classification")
"""The outputs that a caller may ask for: those of which a text has one value."""

COMPUTE = {"device": "device", "batch_tokens": "batch_tokens", "threads": "threads_per_replica"}
"""The arguments that are fields of the section `compute`, and their names there."""


@dataclass(frozen=True)
class Settings:
    """The settings of an embedder: sections of a config."""

    model: Model
    compute: Compute

    @classmethod
    def of(cls, where: str, model: str, arguments: Mapping[str, Any]) -> Self:
        """Checks the arguments of a caller.

        Args:
            where: what was called.
            model: the name of the checkpoint.
            arguments: those of `COMPUTE`, and fields of the section `model`.

        Raises:
            ConfigError: lists all mistakes.
        """
        compute = {COMPUTE[name]: value for name, value in arguments.items() if name in COMPUTE}
        fields = {name: value for name, value in arguments.items() if name not in COMPUTE}
        found = cls(
            parse_section(Model, "model", {"name": model, **fields}, where),
            parse_section(Compute, "compute", compute, where),
        )
        found._refuse_meaningless(where)
        return found

    def _refuse_meaningless(self, where: str) -> None:
        model, device = self.model, self.compute.device
        if model.dtype == "bfloat16" and device == "cpu":
            raise ConfigError("dtype bfloat16 needs device cuda", where, hint="set float32 or auto")
        if model.long_text == "chunks":
            what, hint = "long_text chunks gives a text several vectors", "set truncate or mean_of_chunks"
            raise ConfigError(what, where, hint=f"{hint}, or run a job")
        others = [name for name in model.outputs if name not in OUTPUTS]
        if others:
            hint = "a job has them; here drop them from outputs"
            raise ConfigError("these outputs are of jobs alone", where, ", ".join(others), hint)
