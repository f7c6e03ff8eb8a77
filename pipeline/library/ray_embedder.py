"""Embeds within a Ray Data pipeline: `dataset.map_batches(RayEmbedder, **ray_options(...))`.

Needs no import of Ray: Ray calls the class on its actors.
"""

from typing import Any

import pyarrow as pa

from pipeline.library.columns import with_outputs
from pipeline.library.embedder import Embedder
from pipeline.library.settings import Settings

BATCH_SIZE = 4096
"""Rows of a batch. Texts are sorted by length within one, so few rows would mean uneven micro-batches."""


class RayEmbedder:
    """A replica for `ray.data.Dataset.map_batches`, which keeps it in an actor. Takes and gives Arrow tables.

    Args:
        model: as `Embedder` takes it.
        text_column: the column that holds the texts.
        settings: further arguments of `Embedder`.
    """

    def __init__(self, model: str = "albert-mini", *, text_column: str = "text", **settings: Any) -> None:
        self._text_column, self._embedder = text_column, Embedder(model, **settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return with_outputs(batch, self._text_column, self._embedder)


def ray_options(
    model: str = "albert-mini",
    *,
    text_column: str = "text",
    device: str = "cpu",
    replicas: int | tuple[int, int] = 1,
    cpus: float = 1.0,
    batch_size: int = BATCH_SIZE,
    **settings: Any,
) -> dict[str, Any]:
    """Returns the arguments of `map_batches` for a `RayEmbedder`.

    Args:
        replicas: the actors that hold the model, or the fewest and the most of them.
        cpus: the CPUs of an actor; with device `cpu` each computes micro-batches of its own. With `cuda` an
            actor has a GPU, too.
        batch_size: the rows that an actor gets at once.
        settings: further arguments of `Embedder`.

    Raises:
        ConfigError: the settings are wrong. They are checked here, before any actor starts.
    """
    threads = max(1, int(cpus)) if device == "cpu" else None
    arguments = {"device": device, "threads": threads} | settings
    Settings.of("ray_options", model, arguments)
    return {
        "fn_constructor_kwargs": {"model": model, "text_column": text_column, **arguments},
        "batch_format": "pyarrow",
        "batch_size": batch_size,
        "concurrency": replicas,
        "num_cpus": cpus,
        "num_gpus": 1 if device == "cuda" else 0,
    }
