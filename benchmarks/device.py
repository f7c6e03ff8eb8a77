"""A replica that only takes a device's time, for benchmarks of everything around it.

Every worker loads this module, so it imports little.
"""

import os
import sys
import time
import types
from typing import Any, NamedTuple

import numpy as np

from pipeline import telemetry

ROWS_PER_SPLIT = 16_384
ROWS_PER_MICRO_BATCH = 512
RATE = "SIMULATED_ROWS_PER_SECOND"


class _Encoded(NamedTuple):
    values: np.ndarray[Any, Any]
    computed_tokens: int
    padded_tokens: int
    too_large: np.ndarray[Any, Any]


class Simulated:
    """A replacement for `pipeline.model.encoder.Encoder`."""

    def __init__(self, model: Any, recipe: Any, **_: object) -> None:
        self.recipe, self.rate = recipe, float(os.environ[RATE])
        self.outputs = recipe.output_spec(model)
        shape = ROWS_PER_SPLIT, self.outputs.dimension
        self.vectors = np.random.default_rng(0).standard_normal(shape, np.float32)

    def run(self, tokens: Any) -> _Encoded:
        """Returns vectors after the time that a device would take."""
        begun, rows = time.perf_counter(), len(tokens.lengths)
        for done in range(0, rows, ROWS_PER_MICRO_BATCH):
            telemetry.heartbeat()
            due = begun + min(done + ROWS_PER_MICRO_BATCH, rows) / self.rate
            time.sleep(max(0.0, due - time.perf_counter()))
        total = int(tokens.lengths.sum())
        return _Encoded(self.vectors[:rows], total, total, np.zeros(rows, np.bool_))


def arm() -> None:
    """Installs the replica. Ray calls this in each worker, which loads neither torch nor another encoder."""
    module: Any = types.ModuleType("pipeline.model.encoder")
    module.Encoder = Simulated
    sys.modules["pipeline.model.encoder"] = module
