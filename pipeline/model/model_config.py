"""Reads values from a checkpoint's config.json, with its family's defaults for those that it leaves out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError

LARGEST = 1 << 24
"""The largest size that is accepted without an entry in `limits`; a weight has such a size, too."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The values of config.json.

    defaults: the values of transformers for those that the file leaves out.
    aliases: the names that the file gives to fields, by the names that are asked for.
    limits: the largest values of sizes that no weight has; `LARGEST` bounds all others.
    """

    path: Path
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Returns a value, else its default; None if there is neither."""
        return self.values.get(self.aliases.get(key, key), self.defaults.get(key))

    def size(self, key: str) -> int:
        """Returns a positive integer.

        Raises:
            ModelError: the value is not a positive integer, or is larger than any model's.
        """
        value, limit = self.get(key), self.limits.get(key, LARGEST)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise ModelError(
                f"{key} must be a positive integer, at most {limit:,}",
                str(self.path),
                repr(value),
                hint="fetch the checkpoint again",
            )
        return value
