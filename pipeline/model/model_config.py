"""A checkpoint's config.json: its values, and its family's defaults where it says nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError

LARGEST = 1 << 24
"""Of a size; the weights have it, too."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The values of config.json.

    defaults: what transformers takes where the file says nothing.
    limits: the most of a size that no weight has; all others are bounded by `LARGEST`.
    """

    path: Path
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Returns a value, else its default; None where there is neither."""
        return self.values.get(key, self.defaults.get(key))

    def size(self, key: str) -> int:
        """Returns a positive integer.

        Raises:
            ModelError: the value is not one, or is larger than any model's.
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
