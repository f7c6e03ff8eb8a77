"""Distributed batch embeddings on Ray Data, as a command and as a library: one split, one Ray row, one shard.

The names of `__all__` are the library (docs/library.md). They follow semantic versioning; all other names and
modules are private, and may change in any version. Importing this package imports nothing else: a name is
imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.dataset.ending import RunResult
    from pipeline.errors import ExitCode, PipelineError
    from pipeline.library.embedder import Embedder
    from pipeline.library.ray_embedder import RayEmbedder, ray_options
    from pipeline.library.run import run
    from pipeline.library.spark_embedder import SparkEmbedder

__version__ = "0.1.0"
__all__ = [
    "Embedder",
    "ExitCode",
    "PipelineError",
    "RayEmbedder",
    "RunResult",
    "SparkEmbedder",
    "__version__",
    "ray_options",
    "run",
]

_MODULES = {
    "Embedder": "pipeline.library.embedder",
    "ExitCode": "pipeline.errors",
    "PipelineError": "pipeline.errors",
    "RayEmbedder": "pipeline.library.ray_embedder",
    "RunResult": "pipeline.dataset.ending",
    "SparkEmbedder": "pipeline.library.spark_embedder",
    "ray_options": "pipeline.library.ray_embedder",
    "run": "pipeline.library.run",
}
"""The module of each name. torch, Ray and pyspark are imported later still, where something runs."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
